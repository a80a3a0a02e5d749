"""What every command that runs for minutes needs: whole files, an orderly stop, and a record of software and hardware."""
