"""The interface as documents: OpenAPI 3.1 for the HTTP routes, AsyncAPI 3 for the WebSockets and the event streams.

Made from the types that decode, the types of the answers, the rules of access and the table of errors. Serves nothing.
"""
