"""What answers: the engine, the server around it, the client in front of it. No Kafka, no torch.

`client`, `asyncclient` and what they import (`calls`, `course`, `servers`, `budget`, `exchange`, `http1`, `messages`)
go into other people's services: they need nothing else of this room.
"""
