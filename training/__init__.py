"""Commands that fit something to the documents and questions at hand."""
