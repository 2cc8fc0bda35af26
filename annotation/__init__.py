"""Everything that touches people: tasks, the labelling page, annotators real and simulated, and their labels."""

from align.lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from annotation.backend import AnnotationBackend, Answer
    from annotation.memory import MemoryBackend

__all__ = ["AnnotationBackend", "Answer", "MemoryBackend"]

_HOMES = {
    "AnnotationBackend": "annotation.backend",
    "Answer": "annotation.backend",
    "MemoryBackend": "annotation.memory",
}
__getattr__, __dir__ = lazily(__name__, _HOMES)
