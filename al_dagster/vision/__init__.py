"""Models over arrays: detectors, segmenters, embedders and the few-shot classifier."""
