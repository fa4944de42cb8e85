"""The demonstration: two small projects, labelled, made into a dataset, trained on and measured."""
