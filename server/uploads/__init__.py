"""Updates on their way in, whatever carries them: admission, buffers, resume, spill files."""
