package image

import (
	"debug/elf"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// checkStatic refuses a program that could not start in an image that holds nothing else: one that is linked dynamically finds
// no loader, one for another processor is no program there. Both say no more than "no such file" or "exec format error" then.
func checkStatic(binary, platform string) error {
	wanted, err := v1.ParsePlatform(platform)
	if err != nil {
		return fmt.Errorf("reading the platform %q: %w", platform, err)
	}
	machine, err := machineOf(wanted)
	if err != nil {
		return err
	}
	program, err := elf.Open(binary)
	if err != nil {
		return fmt.Errorf("reading the program %s: %w", binary, err)
	}
	defer program.Close()
	if program.Machine != machine {
		return fmt.Errorf("%s was built for %s, and not for %s", binary, program.Machine, platform)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked dynamically and cannot run in an image of its own; build it with CGO_ENABLED=0", binary)
		}
	}
	return nil
}

func machineOf(p *v1.Platform) (elf.Machine, error) {
	machines := map[string]elf.Machine{
		"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM,
		"ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390, "riscv64": elf.EM_RISCV,
	}
	machine, known := machines[p.Architecture]
	if p.OS != "linux" || !known {
		return 0, fmt.Errorf("no image can be made for %s", p)
	}
	return machine, nil
}
