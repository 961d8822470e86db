"""Run, chat with, tune and quantise."""
