"""Sources of tasks, and the samplers that draw episodes and streams from them on the device."""
