//! Small shared objects that change what a process hears of its system, compiled with the machine's C compiler.
