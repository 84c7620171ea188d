"""The forms that forms.py asks about, by family. Registers: h 16 bits, r 32, f f32, d 64, e f64, q 128, p predicates."""

from itertools import product


def vector(name, n):
    return "{" + ", ".join(f"{name}{i}" for i in range(n)) + "}"


BITS = {"f16": 16, "bf16": 16, "tf32": 32, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8, "s4": 4, "u4": 4, "b1": 1, "f64": 64}


def mma_sync():
    """Every shape with every pair of types, each with the accumulators and qualifiers that could go with it."""
    shapes = [(8, 4), (8, 16), (8, 32), (8, 128)] + [(16, k) for k in (4, 8, 16, 32, 64, 128, 256)]
    pairs = [(t, t) for t in BITS] + [("e4m3", "e5m2"), ("e5m2", "e4m3"), ("s8", "u8"), ("u8", "s8"), ("s4", "u4")]
    pairs += [("u4", "s4"), ("f16", "bf16"), ("s8", "s4"), ("e4m3", "s8"), ("e4m3", "f16")]
    for (m, k), (a, b) in product(shapes, pairs):
        if not 64 <= m * k * BITS[a] // 4 <= 8192:
            continue
        for d, c in [("f32", "f32"), ("f16", "f16"), ("f32", "f16"), ("f16", "f32"), ("s32", "s32"), ("f64", "f64")]:
            if (a == "f64") != (d == "f64") or (a[0] in "sub" and a != "bf16") != (d == "s32"):
                continue
            volta = (m, k, a) == (8, 4, "f16")
            wide = a == "f64"
            acc = lambda t: (4 if t == "f16" else 8) if volta else m * 8 // (64 if t == "f16" else 32)
            name = lambda t: {"f32": "f", "f64": "e"}.get(t, "r")
            of = lambda rows: 2 if volta else max(1, rows * k * BITS[a] // (32 * (64 if wide else 32)))
            regs = lambda p, first, n: "{" + ", ".join(f"{p}{first + i}" for i in range(n)) + "}"
            ops = [regs(name(d), 0, acc(d)), regs("e" if wide else "r", 8, of(m)), regs("e" if wide else "r", 16, of(8)), regs(name(c), 24, acc(c))]
            qualifiers = [("row.col", "", "")]
            if volta:
                qualifiers += [(x, "", "") for x in ("row.row", "col.row", "col.col")]
            elif k in (8, 16) and a in ("f16", "s8"):
                qualifiers += [("col.col", "", ""), ("row.row", "", "")]
            if d == "s32" or (k == 16 and d == "f32"):
                qualifiers += [("row.col", ".satfinite", "")]
            if a == "f64" or (k == 8 and a == "tf32"):
                qualifiers += [("row.col", r, "") for r in (".rn", ".rz", ".rm", ".rp")]
            if a == "b1":
                qualifiers = [("row.col", "", f".{op}.popc") for op in ("xor", "and", "or")] + [("row.col", "", "")]
            for layout, before, after in qualifiers:
                yield f"mma.sync.aligned.m{m}n8k{k}.{layout}{before}.{d}.{a}.{b}.{c}{after} {', '.join(ops)};"
    # Operands.
    head = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
    yield f"{head} {{f0, f1, f2, f3}}, {{f4, f5, f6, f7}}, {{f8, f9}}, {{f10, f11, f12, f13}};"
    yield f"{head} {{r0, r1, r2, r3}}, {{r4, r5, r6, r7}}, {{r8, r9}}, {{r10, r11, r12, r13}};"
    yield f"{head} {{f0, f1, f2, f3}}, {{r4, r5, r6, r7}}, {{r8, r9}}, {{0f00000000, 0f00000000, 0f00000000, 0f00000000}};"
    yield f"{head} {{f0, f1, f2, f3}}, {{r4, r5, r6, r7}}, {{0, 0}}, {{f0, f1, f2, f3}};"
    yield f"{head} {{f0, f1, f2, _}}, {{r4, r5, r6, r7}}, {{r8, r9}}, {{f0, f1, f2, f3}};"
    yield f"{head} {{f0, f1, f2}}, {{r4, r5, r6, r7}}, {{r8, r9}}, {{f0, f1, f2, f3}};"
    yield f"{head} {{f0, f1, f2, f3}}, {{d4, d5, d6, d7}}, {{r8, r9}}, {{f0, f1, f2, f3}};"
    head = "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32"
    yield f"{head} {{r0, r1}}, r2, r3, {{r4, r5}};"
    yield f"{head} {{f0, f1}}, {{r2}}, {{r3}}, {{r4, r5}};"
    # Declared types of registers.
    for ty, k in [("f16", 8), ("bf16", 8), ("tf32", 4), ("e4m3", 16), ("s8", 16), ("s4", 32), ("b1", 128)]:
        d, dr = ("s32", "r") if ty in ("s8", "s4", "b1") else ("f32", "f")
        end = ".xor.popc" if ty == "b1" else ""
        for x in "rusxf":
            yield f"mma.sync.aligned.m16n8k{k}.row.col.{d}.{ty}.{ty}.{d}{end} {vector(dr, 4)}, {{{x}0, {x}1}}, {{{x}2}}, {vector(dr, 4)};"
            yield f"mma.sync.aligned.m16n8k{k}.row.col.{d}.{ty}.{ty}.{d}{end} {vector(x, 4)}, {{r0, r1}}, {{r2}}, {vector(dr, 4)};"
            yield f"mma.sync.aligned.m16n8k{k}.row.col.{d}.{ty}.{ty}.{d}{end} {vector(dr, 4)}, {{r0, r1}}, {{r2}}, {vector(x, 4)};"
            if ty in ("f16", "e4m3"):
                yield f"mma.sync.aligned.m16n8k{k}.row.col.f16.{ty}.{ty}.f16 {vector(x, 2)}, {{r0, r1}}, {{r2}}, {vector('r', 2)};"
                yield f"mma.sync.aligned.m16n8k{k}.row.col.f16.{ty}.{ty}.f16 {vector('r', 2)}, {{r0, r1}}, {{r2}}, {vector(x, 2)};"
    yield "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {r0, r1, r2, r3}, {r0, r1}, {r2}, {0, 0, 0, 1};"
    yield "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {r0, r1}, {r0, r1}, {r2}, {0, 0};"
    yield "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {e0, e1}, {d0}, {d2}, {e0, e1};"
    yield "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {d0, d1}, {e0}, {e2}, {0d0000000000000000, e1};"
    yield "mma.sync.m16n8k8.row.col.f32.tf32.tf32.f32 {f0, f1, f2, f3}, {r4, r5, r6, r7}, {r8, r9}, {f0, f1, f2, f3};"


def cp_async():
    for level, size in product(("ca", "cg", "cb"), (2, 4, 8, 16, 32)):
        yield f"cp.async.{level}.shared.global [r0], [d0], {size};"
    for space in ("shared", "shared::cta", "shared::cluster", ""):
        dot = "." + space if space else ""
        yield f"cp.async.ca{dot}.global [r0], [d0], 4;"
        yield f"cp.async.mbarrier.arrive{dot}.b64 [r0];"
        yield f"cp.async.mbarrier.arrive.noinc{dot}.b64 [r0];"
        yield f"cp.async.mbarrier.arrive.noinc{dot}.b64 [d0];"
    for hint, size in product(("", ".L2::cache_hint"), ("", ".L2::64B", ".L2::128B", ".L2::256B", ".L2::512B")):
        end = ", d1" if hint else ""
        yield f"cp.async.cg.shared.global{hint}{size} [r0], [d0], 16{end};"
        yield f"cp.async.cg.shared.global{hint}{size} [r0], [d0], 16, r1{end};"
        yield f"cp.async.ca.shared.global{size}{hint} [r0], [d0], 8, r1{end};"
    for limit in ("0", "4", "8", "16", "r1", "p0", "!p0", "d1", "f0", "h0", "_"):
        yield f"cp.async.ca.shared.global [r0], [d0], 8, {limit};"
        yield f"cp.async.cg.shared.global [r0], [d0], 16, {limit};"
    yield "cp.async.ca.shared.global [r0], [d0], r1;"
    yield "cp.async.ca.shared.global [d1], [d0], 4;"
    yield "cp.async.ca.shared.global [smem], [gmem], 4;"
    yield "cp.async.ca.shared.global [smem+4], [d0+4], 4;"
    yield "cp.async.ca.global.shared [d0], [r0], 4;"
    yield "cp.async.ca.shared.global [r0], [d0];"
    yield "cp.async.cg.shared.global.L2::cache_hint [r0], [d0], 16;"
    for op in ("commit_group", "commit_group 0", "wait_group", "wait_group 0", "wait_group 7", "wait_group r0", "wait_group -1", "wait_all", "wait_all 0", "wait_group.read 0"):
        yield f"cp.async.{op};"
    yield "cp.async.mbarrier.arrive.noinc.shared.b32 [r0];"
    yield "cp.async.mbarrier.arrive.noinc.shared.b64 [r0], 1;"


FAMILIES = {"mma_sync": mma_sync, "cp_async": cp_async}


def of_target(target, only=None):
    return [form for name, family in FAMILIES.items() if not only or name in only for form in family()]
