"""Tasks: data, model and metric of each, one small file a task."""
