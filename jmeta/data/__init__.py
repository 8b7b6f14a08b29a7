"""Sources of tasks, and the samplers that draw episodes from them on the device."""
