"""Images in memory, by name or from a folder, with repeatable augmentation."""

from kdiga.data.feed import Feed, ImageSetFeed, LoaderFeed, Share, batch_of, feed_of
from kdiga.data.images import ImageSet, split
from kdiga.data.sets import DataSet, available_data, load_data
from kdiga.data.views import Augmentation, augmentation_by_name

__all__ = [
    "Augmentation",
    "DataSet",
    "Feed",
    "ImageSet",
    "ImageSetFeed",
    "LoaderFeed",
    "Share",
    "augmentation_by_name",
    "available_data",
    "batch_of",
    "feed_of",
    "load_data",
    "split",
]
