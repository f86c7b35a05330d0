"""OpenAI's shapes, as the SDK's types have them; short functions make them of our rows."""
