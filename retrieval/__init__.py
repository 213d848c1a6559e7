"""What answers: the engine, the server around it, the client in front of it. No Kafka, no torch.

`client` and `messages` import nothing else of this room: they go into other people's services.
"""
