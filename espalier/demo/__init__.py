"""The main job, start to end, on the model that ships inside the package."""
