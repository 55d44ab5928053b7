"""The catalogue as data: one YAML file per category, read and checked by tasks/catalogue.py."""
