//! The mount daemon: `springhouse mount`, its control socket, and the parent that watches it as a child.
