"""Declarative data: targets, op tables, pipelines, toolchains; and their schema."""
