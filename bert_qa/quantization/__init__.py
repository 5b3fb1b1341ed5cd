"""The quantization recipe and its steps, from an FP32 model to a calibrated INT8 one."""
