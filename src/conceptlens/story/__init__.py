"""The story of a store: how a model holds its concepts, told as data that tables, figures and a page only show."""

from conceptlens.story.ask import Asked as Asked
from conceptlens.story.ask import check_concepts as check_concepts
from conceptlens.story.layer import LayerStory as LayerStory
from conceptlens.story.rows import StoryRows as StoryRows
from conceptlens.story.rows import read_rows as read_rows
from conceptlens.story.story import Story as Story
from conceptlens.story.story import tell as tell
from conceptlens.story.tables import tables as tables
