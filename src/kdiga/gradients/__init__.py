"""Input gradients: their value, their derivative by the parameters, and alignment with a teacher's."""
