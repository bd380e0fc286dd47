"""From a lowered module to something that runs."""
