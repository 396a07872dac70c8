"""`shmhost doctor`: measure, judge, show."""
