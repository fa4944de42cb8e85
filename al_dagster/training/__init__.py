"""Training, evaluating and tracking YOLO models."""
