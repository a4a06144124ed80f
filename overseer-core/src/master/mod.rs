mod listeners;
mod log;
mod pid_file;
