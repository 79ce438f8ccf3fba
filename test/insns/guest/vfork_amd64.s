#include "textflag.h"

#define SYS_clone 56
#define SYS_exit_group 231
#define CLONE_VFORK_VM_SIGCHLD 0x4111

// func vfork() int
TEXT ·vfork(SB), NOSPLIT, $0-8
	MOVQ $CLONE_VFORK_VM_SIGCHLD, DI
	MOVQ $0, SI
	MOVQ $0, DX
	MOVQ $0, R10
	MOVQ $0, R8
	MOVQ $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JNE  parent
	MOVQ $0, DI
	MOVQ $SYS_exit_group, AX
	SYSCALL

parent:
	MOVQ AX, ret+0(FP)
	RET
