"""The commands of `shmhost`, by what they are about."""
