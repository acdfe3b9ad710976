"""Analysis of a store: how well each layer separates concepts, as data that tables, figures and a page show."""

from conceptlens.local_embeddings.analysis.analysis_rows import AnalysisRows as AnalysisRows
from conceptlens.local_embeddings.analysis.analysis_rows import AnalysisSettings as AnalysisSettings
from conceptlens.local_embeddings.analysis.analysis_rows import check_concepts as check_concepts
from conceptlens.local_embeddings.analysis.analysis_rows import read_rows as read_rows
from conceptlens.local_embeddings.analysis.analysis_tables import analysis_tables as analysis_tables
from conceptlens.local_embeddings.analysis.layer_analysis import LayerAnalysis as LayerAnalysis
from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis as StoreAnalysis
from conceptlens.local_embeddings.analysis.store_analysis import analyze as analyze
