"""Where embeddings, masks and explanations of many images are kept: one folder, written by many, read by anyone.

LanceDB runs inside the process, without a server. It keeps threads of its own, which do not survive a fork: start
workers with `spawn` or `forkserver`, and open the store in each of them. A `Store` may be pickled: it is its path.
"""

from conceptlens.store.embeddings import Embeddings as Embeddings
from conceptlens.store.embeddings import Nearest as Nearest
from conceptlens.store.exchange import export as export
from conceptlens.store.exchange import import_export as import_export
from conceptlens.store.explanation_rows import ConceptRow as ConceptRow
from conceptlens.store.explanation_rows import ExplainedRow as ExplainedRow
from conceptlens.store.explanation_rows import MapRow as MapRow
from conceptlens.store.explanation_rows import PredictionRow as PredictionRow
from conceptlens.store.explanation_store import ExplanationRows as ExplanationRows
from conceptlens.store.explanation_store import ExplanationStore as ExplanationStore
from conceptlens.store.row import EmbeddingRow as EmbeddingRow
from conceptlens.store.row import ImageRow as ImageRow
from conceptlens.store.row import MaskRow as MaskRow
from conceptlens.store.row import RunRow as RunRow
from conceptlens.store.row import row_id as row_id
from conceptlens.store.store import Store as Store
