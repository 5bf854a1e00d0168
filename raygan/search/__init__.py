"""Many runs: what is searched, how trials are proposed and stopped early, and the phases of a study."""
