"""Questions of a person on one study, answered out of its result and kept with their answers."""
