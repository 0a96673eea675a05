"""Trained policies as MLflow models: what a request holds, how a model is made, served and registered."""
