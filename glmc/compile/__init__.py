"""From a config or a dump to the files of a build."""
