"""What is measured: time, memory, and the precision contract as observed."""
