"""How a configuration is made of typed values, validated, varied by path, and written as JSON."""
