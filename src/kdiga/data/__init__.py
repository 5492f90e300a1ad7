"""Images in memory or on disk, by name or from a folder, with repeatable augmentation."""

from kdiga.data.feed import Feed, Images, ImageSetFeed, LoaderFeed, MixedFeed, batch_of, feed_of
from kdiga.data.file_set import FileSet
from kdiga.data.image_set import ImageSet, split
from kdiga.data.mixed_set import MixedSet
from kdiga.data.reading import Reading
from kdiga.data.registry import DataSet, available_data, find_data, load_data
from kdiga.data.views import Augmentation, ResizedCrop, View, augmentation_by_name

__all__ = [
    "Augmentation",
    "DataSet",
    "Feed",
    "FileSet",
    "ImageSet",
    "ImageSetFeed",
    "Images",
    "LoaderFeed",
    "MixedFeed",
    "MixedSet",
    "Reading",
    "ResizedCrop",
    "View",
    "augmentation_by_name",
    "available_data",
    "batch_of",
    "feed_of",
    "find_data",
    "load_data",
    "split",
]
