"""The process that alone imports ultralytics: it trains, predicts on files, and detects in images that it is sent."""
