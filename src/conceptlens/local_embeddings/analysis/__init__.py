"""The story of a store: how a model holds its concepts, told as data that tables, figures and a page only show."""

from conceptlens.local_embeddings.analysis.analysis_rows import StoryRows as StoryRows
from conceptlens.local_embeddings.analysis.analysis_rows import read_rows as read_rows
from conceptlens.local_embeddings.analysis.analysis_tables import tables as tables
from conceptlens.local_embeddings.analysis.layer_analysis import LayerStory as LayerStory
from conceptlens.local_embeddings.analysis.selection import Asked as Asked
from conceptlens.local_embeddings.analysis.selection import check_concepts as check_concepts
from conceptlens.local_embeddings.analysis.store_analysis import Story as Story
from conceptlens.local_embeddings.analysis.store_analysis import tell as tell
