"""The endpoints of the API, one module for each room of the studio."""
