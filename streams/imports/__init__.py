"""History from elsewhere into an archive: files of any form become the events that an Intake would accept."""
