"""What a sweep's results say: intervals, theory, claims, the report's tables."""
