"""How far a training is: read from its run folder, drawn on a terminal, followed as it goes on."""
