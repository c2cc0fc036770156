/**
 * Flags of an x86 processor that stand for instructions or state which a program may use once it has seen them. The others
 * (mitigations, virtualisation, what the kernel alone uses) differ between machines on which the same program runs.
 */
const X86_INSTRUCTIONS =
  /^(?:3dnow\w*|abm|adx|aes|amx_\w+|avx\w*|bmi[12]|cldemote|clflushopt|clwb|clzero|cmov|cmpccxadd|cx16|cx8|enqcmd|erms|f16c|fma4?|fsgsbase|fsrm|fxsr\w*|gfni|hle|lahf_lm|mmx\w*|monitorx|movbe|movdir64b|movdiri|mwaitx|ospke|pclmulqdq|popcnt|prefetchi|rdpid|rdpru|rdrand|rdseed|rdtscp|rtm|serialize|sha\w*|sm[34]|sse\w*|ssse3|tbm|tsxldtrk|user_shstk|vaes|vpclmulqdq|waitpkg|xop|xsave\w*)$/

/** Instructions that the program may use by now, as it was made on `needed`, and which this machine lacks. Sorted. */
export function lackingCpu(arch: string, needed: string[], here: string[]): string[] {
  const has = new Set(here)
  const counts =
    arch === 'x64' || arch === 'ia32' ? (flag: string) => X86_INSTRUCTIONS.test(flag) : () => true
  return needed.filter((flag) => counts(flag) && !has.has(flag)).sort()
}

/** Flags of the first processor in /proc/cpuinfo: `flags` on x86, `Features` on ARM, `isa` on RISC-V. */
export function cpuFlags(cpuinfo: string): string[] {
  const line = /^(?:flags|Features|isa)\s*:\s*(.*)$/m.exec(cpuinfo)?.[1] ?? ''
  return [...new Set(line.split(/\s+/).filter((flag) => flag !== ''))].sort()
}
