"""What the service costs. Figures are preceded by a check that the answers are right."""
