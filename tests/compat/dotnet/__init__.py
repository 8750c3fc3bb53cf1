"""The parts of .NET that the old clients are made of: types, System.Text.Json, HttpClient and named pipes."""
