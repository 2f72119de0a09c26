"""Run all three InstructGPT stages from one YAML spec."""
