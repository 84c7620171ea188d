#!/usr/bin/env python3
"""Asks ptxas for instruction forms of the scalar instruction set: from which .target and .version on does it take them?

    python3 emulator/tests/corpus/forms.py .cuda/nvidia/cu13/bin/ptxas emulator

Writes tests/corpus/forms.txt, one instruction a line: what it needs, the instruction. `sm_89:8.1,sm_90:7.8` means .target
sm_89 and up with .version 8.1 and up, or sm_90 with 7.8; `never` that no target to sm_90a takes it in .version 9.0.
Candidates are products of qualifiers, legal or not: what ptxas refuses must be refused. Of what it refuses, long products
keep each tenth line.

Writes data/forms.txt, which the decoder reads: per need the opcodes that have it. Mnemonics in OPEN are not
there: their candidates are no whole product, so rules in code decide.
"""
import itertools, re, subprocess, sys, tempfile, os

REG = {'b8': '%h', 'u8': '%h', 's8': '%h', 'b16': '%h', 'u16': '%h', 's16': '%h', 'f16': '%h', 'bf16': '%h',
       'b32': '%r', 'u32': '%r', 's32': '%r', 'f16x2': '%r', 'bf16x2': '%r', 'f32': '%r', 'tf32': '%r',
       'b64': '%l', 'u64': '%l', 's64': '%l', 'f64': '%l', 'f32x2': '%l', 'b128': '%q', 'pred': '%p',
       'e4m3x2': '%h', 'e5m2x2': '%h', 'u16x2': '%r', 's16x2': '%r'}
INT = ['u16', 's16', 'u32', 's32', 'u64', 's64']
BITS = ['b16', 'b32', 'b64']
HALF = ['f16', 'f16x2', 'bf16', 'bf16x2']
FLOAT = ['f32', 'f64']
RND = ['', '.rn', '.rz', '.rm', '.rp']
out = []


def reg(t, n):
    return f'{REG[t]}{n}'


def emit(op, *operands):
    out.append(f'{op} {", ".join(operands)};' if operands else f'{op};')


def same(op, t, n, extra=()):
    emit(f'{op}.{t}', *[reg(t, k) for k in range(n)], *extra)


def product(*lists):
    return itertools.product(*lists)


def arithmetic():
    for op, t in product(['add', 'sub'], INT + FLOAT + HALF + ['u16x2', 's16x2', 'f32x2', 'u8', 's8', 'b32', 'b64']):
        for sat in ['', '.sat']:
            same(op + sat, t, 3)
    for op, r, z, s, t in product(['add', 'sub', 'mul'], RND, ['', '.ftz'], ['', '.sat'], FLOAT + HALF + ['f32x2']):
        if r or z or s:
            same(op + r + z + s, t, 3)
    for t in FLOAT + HALF + ['f32x2']:
        same('mul', t, 3)
    for r, z, s, t in product(RND, ['', '.ftz'], ['', '.sat', '.relu', '.oob', '.oob.relu'], FLOAT + HALF + ['f32x2']):
        same('fma' + r + z + s, t, 4)
    for r, z, s, t in product(RND, ['', '.ftz'], ['', '.sat'], FLOAT):
        same('mad' + r + z + s, t, 4)
    for op, part, s, t in product(['mul', 'mad'], ['', '.lo', '.hi', '.wide'], ['', '.sat'], INT):
        n = 3 if op == 'mul' else 4
        if part == '.wide':
            w = {'u16': 'u32', 's16': 's32', 'u32': 'u64', 's32': 's64'}.get(t, t)
            regs = [reg(w, 0), reg(t, 1), reg(t, 2)] + ([reg(w, 3)] if n == 4 else [])
            emit(f'{op}{part}{s}.{t}', *regs)
        else:
            same(op + part + s, t, n)
    for op, part, s, t in product(['mul24', 'mad24'], ['', '.lo', '.hi'], ['', '.sat'], ['u32', 's32', 'u16', 'u64']):
        same(op + part + s, t, 3 if op == 'mul24' else 4)
    for op, t in product(['add.cc', 'addc', 'addc.cc', 'sub.cc', 'subc', 'subc.cc'], INT):
        same(op, t, 3)
    for op, part, cc, t in product(['mad', 'madc'], ['.lo', '.hi', '.wide'], ['', '.cc'], INT):
        same(op + part + cc, t, 4)
    for op, t in product(['div', 'rem'], INT + ['u8']):
        same(op, t, 3)
    for t in INT:
        same('sad', t, 4)
    for op, t in product(['abs', 'neg'], INT + FLOAT + HALF):
        for z in ['', '.ftz']:
            same(op + z, t, 2)
    for op, q, t in product(['min', 'max'], ['', '.relu'], INT + ['u16x2', 's16x2']):
        same(op + q, t, 3)
    for op, z, n, x, t in product(['min', 'max'], ['', '.ftz'], ['', '.NaN'], ['', '.xorsign.abs', '.abs'], FLOAT + HALF):
        same(op + z + n + x, t, 3)
        if t == 'f32':
            same(op + z + n + x, t, 4)
    for r, z, t in product(['', '.rn', '.rz', '.rm', '.rp', '.approx', '.full'], ['', '.ftz'], FLOAT + HALF):
        same('div' + r + z, t, 3)
        for op in ['rcp', 'sqrt', 'rsqrt']:
            same(op + r + z, t, 2)
    for op, r, z, t in product(['sin', 'cos', 'lg2', 'ex2', 'tanh'], ['', '.approx'], ['', '.ftz'], FLOAT + HALF):
        same(op + r + z, t, 2)
    for t in FLOAT + HALF:
        same('copysign', t, 3)
    for p, t in product(['finite', 'infinite', 'number', 'notanumber', 'normal', 'subnormal'], FLOAT + ['f16']):
        emit(f'testp.{p}.{t}', '%p0', reg(t, 1))
    for a, b in product(['u32', 's32'], ['u32', 's32']):
        emit(f'dp4a.{a}.{b}', '%r0', '%r1', '%r2', '%r3')
        for h in ['', '.lo', '.hi']:
            emit(f'dp2a{h}.{a}.{b}', '%r0', '%r1', '%r2', '%r3')
    for z, t, u in product(['', '.sat'], ['f32', 'f16', 'bf16'], ['f32', 'f16', 'bf16']):
        if t != u:
            emit(f'add{z}.{t}.{u}', reg(t, 0), reg(u, 1), reg(t, 2))
            emit(f'fma.rn{z}.{t}.{u}', reg(t, 0), reg(u, 1), reg(u, 2), reg(t, 3))


def bits():
    for op, t in product(['and', 'or', 'xor'], BITS + ['pred', 'u32', 'b128']):
        same(op, t, 3)
    for op, t in product(['not', 'cnot'], BITS + ['pred', 'u32']):
        same(op, t, 2)
    for op, t in product(['shl', 'shr'], BITS + INT):
        emit(f'{op}.{t}', reg(t, 0), reg(t, 1), '%r2')
    for lr, m, t in product(['', '.l', '.r'], ['', '.clamp', '.wrap'], ['b32', 'b64', 'u32']):
        emit(f'shf{lr}{m}.{t}', reg(t, 0), reg(t, 1), reg(t, 2), '%r3')
    for op, t in product(['clz', 'popc'], BITS + ['u32']):
        emit(f'{op}.{t}', '%r0', reg(t, 1))
    for t in BITS + ['u32']:
        same('brev', t, 2)
    for a, t in product(['', '.shiftamt'], INT + ['b32']):
        emit(f'bfind{a}.{t}', '%r0', reg(t, 1))
    emit('fns.b32', '%r0', '%r1', '%r2', '%r3')
    for t in INT + ['b32']:
        emit(f'bfe.{t}', reg(t, 0), reg(t, 1), '%r2', '%r3')
        emit(f'szext.clamp.{t}', reg(t, 0), reg(t, 1), '%r2')
        emit(f'szext.wrap.{t}', reg(t, 0), reg(t, 1), '%r2')
    for t in BITS + ['u32']:
        emit(f'bfi.{t}', reg(t, 0), reg(t, 1), reg(t, 2), '%r3', '%r4')
    for m, t in product(['', '.clamp', '.wrap'], ['b32', 'b64']):
        emit(f'bmsk{m}.{t}', '%r0', '%r1', '%r2')
    for m in ['', '.f4e', '.b4e', '.rc8', '.ecl', '.ecr', '.rc16', '.x']:
        emit(f'prmt.b32{m}', '%r0', '%r1', '%r2', '%r3')
    emit('lop3.b32', '%r0', '%r1', '%r2', '%r3', '0x96')
    emit('lop3.b64', '%l0', '%l1', '%l2', '%l3', '0x96')
    for o, p in product(['or', 'and', 'xor'], ['%p1', '!%p1']):
        emit(f'lop3.{o}.b32', '%r0|%p0', '%r1', '%r2', '%r3', '0x96', p)
        emit(f'lop3.{o}.b32', '_|%p0', '%r1', '%r2', '%r3', '0x96', p)


CMP = ['eq', 'ne', 'lt', 'le', 'gt', 'ge', 'lo', 'ls', 'hi', 'hs', 'equ', 'neu', 'ltu', 'leu', 'gtu', 'geu', 'num', 'nan']


def compare():
    types = BITS + INT + FLOAT + ['f16', 'f16x2', 'bf16', 'bf16x2']
    for c, b, z, t in product(CMP, ['', '.and', '.or', '.xor'], ['', '.ftz'], types):
        if z and (t in INT or t in BITS):
            continue
        d = '%p0|%p1' if t.endswith('x2') else '%p0'
        emit(f'setp.{c}{b}{z}.{t}', d, reg(t, 1), reg(t, 2), *(['%p2'] if b else []))
        for d in ['u32', 's32', 'f32', 'u16', 'f16', 'bf16', 'f16x2', 'bf16x2', 'u64']:
            if b in ('.or', '.xor') and c not in ('eq', 'geu', 'hi'):
                continue
            emit(f'set.{c}{b}{z}.{d}.{t}', reg(d, 0), reg(t, 1), reg(t, 2), *(['%p2'] if b else []))
    for t in ['f16', 's32', 'b16', 'f16x2', 'bf16x2']:
        for d, p in product(['%p0', '%p0|%p1', '_|%p1'], ['', '!%p2']):
            emit(f'setp.eq{".and" if p else ""}.{t}', d, reg(t, 1), reg(t, 2), *([p] if p else []))
    for t in BITS + INT + FLOAT + ['f16', 'f16x2', 'bf16', 'b8', 'pred']:
        emit(f'selp.{t}', reg(t, 0), reg(t, 1), reg(t, 2), '%p0')
        for z, s in product(['', '.ftz'], ['s32', 'f32', 'u32', 'f64']):
            emit(f'slct{z}.{t}.{s}', reg(t, 0), reg(t, 1), reg(t, 2), reg(s, 3))


def moves():
    for t in BITS + INT + FLOAT + ['pred', 'b8', 'u8', 'f16', 'bf16', 'f16x2', 'b128']:
        same('mov', t, 2)
    emit('mov.b32', '%r0', '{%h0, %h1}')
    emit('mov.b32', '{%h0, %h1}', '%r0')
    emit('mov.b32', '{_, %h1}', '%r0')
    emit('mov.b32', '{%b0, %b1, %b2, %b3}', '%r0')
    emit('mov.b32', '%r0', '{%b0, %b1, %b2, %b3}')
    emit('mov.b16', '%h0', '{%b0, %b1}')
    emit('mov.b64', '%l0', '{%r0, %r1}')
    emit('mov.b64', '{%r0, %r1}', '%l0')
    emit('mov.b64', '{%h0, %h1, %h2, %h3}', '%l0')
    emit('mov.b64', '%l0', '{%h0, %h1, %h2, %h3}')
    emit('mov.b128', '%q0', '{%l0, %l1}')
    emit('mov.b128', '{%l0, %l1}', '%q0')
    emit('mov.b128', '%q0', '{%r0, %r1, %r2, %r3}')
    emit('mov.u32', '%r0', '{%h0, %h1}')
    for s in ['global', 'shared', 'shared::cta', 'shared::cluster', 'local', 'const', 'param', 'param::entry', 'param::func', 'foo']:
        for t, w in product(['u64', 'u32', 's64', 'b64'], ['', '.to']):
            emit(f'cvta{w}.{s}.{t}', reg(t, 0), reg(t, 1))
        emit(f'isspacep.{s}', '%p0', '%l1')
    for s, t in product(['', '.shared::cluster', '.shared'], ['u32', 'u64', 'b32']):
        emit(f'mapa{s}.{t}', reg(t, 0), reg(t, 1), '%r2')
        emit(f'getctarank{s}.{t}', '%r0', reg(t, 1))
    emit('istypep.texref', '%p0', '%l1')
    for r in ['tid.x', 'ntid.y', 'ctaid.z', 'nctaid.x', 'laneid', 'warpid', 'nwarpid', 'smid', 'nsmid', 'lanemask_eq', 'lanemask_le',
              'lanemask_lt', 'lanemask_ge', 'lanemask_gt', 'clock', 'clock_hi', 'pm0', 'pm7', 'envreg0', 'envreg31', 'globaltimer_lo', 'globaltimer_hi',
              'total_smem_size', 'aggr_smem_size', 'dynamic_smem_size', 'cluster_ctarank', 'cluster_nctarank', 'clusterid.x',
              'nclusterid.y', 'cluster_ctaid.z', 'cluster_nctaid.x', 'reserved_smem_offset_begin', 'reserved_smem_offset_end',
              'reserved_smem_offset_cap', 'reserved_smem_offset_0', 'reserved_smem_offset_1', 'nosuch']:
        emit('mov.u32', '%r0', f'%{r}')
    for r in ['gridid', 'clock64', 'globaltimer', 'pm0_64', 'current_graph_exec']:
        emit('mov.u64', '%l0', f'%{r}')
    emit('mov.pred', '%p0', '%is_explicit_cluster')
    emit('mov.u32', '%r0', '%gridid')
    emit('mov.u32', '%r0', 'WARP_SZ')
    emit('mov.v4.u32', '{%r0, %r1, %r2, %r3}', '%tid')
    emit('cvt.u16.u32', '%h0', '%tid.x')
    emit('cvt.u64.u32', '%l0', '%laneid')


ALLT = ['u8', 's8', 'u16', 's16', 'u32', 's32', 'u64', 's64', 'f16', 'bf16', 'f32', 'f64']


def conversions():
    for r, z, s, d, t in product(['', '.rn', '.rz', '.rm', '.rp', '.rni', '.rzi', '.rmi', '.rpi', '.rna'], ['', '.ftz'], ['', '.sat'], ALLT, ALLT):
        if z and 'f32' not in (d, t) and (d, t) != ('f16', 'bf16'):
            continue
        emit(f'cvt{r}{z}{s}.{d}.{t}', reg(d, 0), reg(t, 1))
    for r, q, d in product(['', '.rn', '.rz', '.rna', '.rs', '.rp'], ['', '.relu', '.satfinite', '.relu.satfinite', '.satfinite.relu', '.ftz', '.sat'],
                           ['f16', 'bf16', 'tf32']):
        emit(f'cvt{r}{q}.{d}.f32', reg(d, 0), '%r1')
    for r, q, d in product(['', '.rn', '.rz', '.rna', '.rs'], ['', '.relu', '.satfinite', '.relu.satfinite', '.satfinite.relu'], ['f16x2', 'bf16x2']):
        emit(f'cvt{r}{q}.{d}.f32', reg(d, 0), '%r1', '%r2')
    for r, q, d in product(['', '.rn', '.rz'], ['', '.relu', '.satfinite', '.satfinite.relu', '.relu.satfinite'], ['e4m3x2', 'e5m2x2']):
        emit(f'cvt{r}{q}.{d}.f32', '%h0', '%r1', '%r2')
        emit(f'cvt{r}{q}.{d}.f16x2', '%h0', '%r1')
        emit(f'cvt{r}{q}.{d}.bf16x2', '%h0', '%r1')
        emit(f'cvt{r}{q}.f16x2.{d}', '%r0', '%h1')
        emit(f'cvt{r}{q}.bf16x2.{d}', '%r0', '%h1')
    for d, t in product(['u16', 's16', 'u8', 's8', 'u4', 's4', 'u2', 's2'], ['s32', 'u32']):
        emit(f'cvt.pack.sat.{d}.{t}', '%r0', '%r1', '%r2')
        emit(f'cvt.pack.sat.{d}.{t}.b32', '%r0', '%r1', '%r2', '%r3')


def video():
    for op, d, a, b in product(['vadd', 'vsub', 'vabsdiff', 'vmin', 'vmax'], ['u32', 's32'], ['u32', 's32'], ['u32', 's32']):
        emit(f'{op}.{d}.{a}.{b}', '%r0', '%r1', '%r2')
    for op in ['vadd', 'vsub', 'vabsdiff', 'vmin', 'vmax', 'vshl', 'vshr']:
        m = '.clamp' if op in ('vshl', 'vshr') else ''
        emit(f'{op}.s32.u32.u32{".sat" if not m else m}', '%r0', '%r1.b0', '%r2.h1')
        emit(f'{op}.u32.u32.u32{m}', '%r0.b1', '%r1.b3', '%r2.h0', '%r3')
        for o in ['add', 'min', 'max']:
            emit(f'{op}.u32.u32.u32{m}.{o}', '%r0', '%r1', '%r2', '%r3')
    for m in ['.wrap', '.clamp']:
        for op in ['vshl', 'vshr']:
            emit(f'{op}.u32.u32.u32{m}', '%r0', '%r1', '%r2')
            emit(f'{op}.s32.s32.u32.sat{m}', '%r0', '%r1', '%r2')
    emit('vmad.u32.u32.u32', '%r0', '%r1.b0', '%r2.b1', '%r3')
    emit('vmad.s32.s32.s32.sat.shr7', '%r0', '%r1.h0', '-%r2.h1', '%r3')
    emit('vmad.s32.s32.u32.po.shr15', '%r0', '%r1', '%r2', '%r3')
    for c in ['eq', 'ne', 'lt', 'le', 'gt', 'ge']:
        emit(f'vset.u32.u32.{c}', '%r0', '%r1', '%r2')
        emit(f'vset.s32.u32.{c}.add', '%r0', '%r1.b0', '%r2.h1', '%r3')
    for n, op, d, a, b, s in product(['2', '4'], ['vadd', 'vsub', 'vavrg', 'vabsdiff', 'vmin', 'vmax'], ['u32', 's32'], ['u32', 's32'], ['u32', 's32'], ['', '.sat', '.add']):
        emit(f'{op}{n}.{d}.{a}.{b}{s}', '%r0', '%r1', '%r2', '%r3')
    for n, c, s in product(['2', '4'], ['eq', 'ne', 'lt', 'le', 'gt', 'ge'], ['', '.add']):
        emit(f'vset{n}.u32.u32.{c}{s}', '%r0', '%r1', '%r2', '%r3')
    emit('vadd2.u32.u32.u32', '%r0.h10', '%r1.h32', '%r2.h01', '%r3')
    emit('vadd4.u32.u32.u32', '%r0.b3210', '%r1.b7654', '%r2.b0246', '%r3')


SEM = ['', '.weak', '.volatile', '.relaxed', '.acquire', '.release', '.mmio.relaxed']
SCOPE = ['', '.cta', '.cluster', '.gpu', '.sys']
SPACES = ['', '.global', '.shared', '.shared::cta', '.shared::cluster', '.local', '.const', '.param', '.param::entry', '.param::func']
ADDR = {'': '[%l1]', '.global': '[%l1+4]', '.shared': '[%r1]', '.shared::cta': '[%r1]', '.shared::cluster': '[%r1+8]', '.local': '[%l1]',
        '.const': '[%l1]', '.param': '[kp]', '.param::entry': '[kp]', '.param::func': '[kp]'}


def vec(t, v, n=2):
    k = {'': 1, '.v2': 2, '.v4': 4, '.v8': 8}[v]
    r = [reg(t, n + i) for i in range(k)]
    return r[0] if k == 1 else '{' + ', '.join(r) + '}'


def memory():
    for sem, sc, sp in product(SEM, SCOPE, SPACES):
        emit(f'ld{sem}{sc}{sp}.u32', '%r0', ADDR[sp])
        emit(f'st{sem}{sc}{sp}.u32', ADDR[sp], '%r0')
    for t, v in product(['b8', 'u8', 's8', 'b16', 'u16', 's16', 'b32', 'u32', 's32', 'b64', 'u64', 's64', 'f16', 'bf16', 'f32', 'f64', 'b128', 'f16x2', 'pred'],
                        ['', '.v2', '.v4', '.v8']):
        emit(f'ld.global{v}.{t}', vec(t, v), '[%l1]')
        emit(f'st.shared{v}.{t}', '[%r1]', vec(t, v))
        emit(f'ldu.global{v}.{t}', vec(t, v), '[%l1]')
        emit(f'ld.relaxed.gpu.global{v}.{t}', vec(t, v), '[%l1]')
    emit('ld.global.u8', '%r0', '[%l1]')
    emit('ld.global.s8', '%l0', '[%l1]')
    emit('ld.global.u16', '%l0', '[%l1]')
    emit('ld.global.u32', '%l0', '[%l1]')
    emit('ld.global.u32', '%h0', '[%l1]')
    emit('st.global.u8', '[%l1]', '%r0')
    emit('st.global.u16', '[%l1]', '%r0')
    emit('st.global.u32', '[%l1]', '%l0')
    emit('st.global.v2.u32', '[%l1]', '{%r0, 5}')
    emit('st.global.u32', '[%l1]', '-7')
    emit('st.global.f32', '[%l1]', '0f3F800000')
    emit('ld.global.v4.u32', '{%r0, _, %r2, _}', '[%l1]')
    emit('st.global.v8.b32', '[%l1]', '{%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}')
    emit('ld.u32', '%r0', '[%l1+-4]')
    emit('ld.u32', '%r0', '[gv]')
    emit('ld.global.u32', '%r0', '[gv+4]')
    emit('ld.u32', '%r0', '[%r1]')
    emit('ld.const.u32', '%r0', '[cv]')
    emit('ldu.u32', '%r0', '[%l1]')
    emit('ldu.shared.u32', '%r0', '[%r1]')
    cops = ['.ca', '.cg', '.cs', '.lu', '.cv', '.wb', '.wt', '.nc', '.ca.nc', '.cg.nc', '.cs.nc', '.nc.L1::no_allocate', '.L1::evict_normal', '.L1::evict_unchanged',
            '.L1::evict_first', '.L1::evict_last', '.L1::no_allocate', '.L2::evict_normal', '.L2::evict_first', '.L2::evict_last', '.L2::64B', '.L2::128B',
            '.L2::256B', '.L1::evict_last.L2::128B', '.nc.L1::no_allocate.L2::256B', '.L1::no_allocate.L2::evict_first', '.L2::foo']
    for c, sp in product(cops, ['', '.global', '.shared', '.local', '.const']):
        emit(f'ld{sp}{c}.u32', '%r0', ADDR[sp])
        emit(f'st{sp}{c}.u32', ADDR[sp], '%r0')
    for sem in ['.relaxed.gpu', '.acquire.sys', '.volatile', '.weak']:
        emit(f'ld{sem}.global.L1::no_allocate.u32', '%r0', '[%l1]')
        emit(f'ld{sem}.global.ca.u32', '%r0', '[%l1]')
        emit(f'ld{sem}.global.L2::cache_hint.u32', '%r0', '[%l1]', '%l2')
    for c in ['.L2::cache_hint', '.L1::evict_first.L2::cache_hint', '.nc.L2::cache_hint', '.nc.L1::no_allocate.L2::cache_hint', '.L2::cache_hint.L2::256B',
              '.L2::256B.L2::cache_hint']:
        emit(f'ld.global{c}.u32', '%r0', '[%l1]', '%l2')
        emit(f'ld.global{c}.v4.f32', '{%r0, %r1, %r2, %r3}', '[%l1]', '%l2')
        emit(f'st.global{c}.u32', '[%l1]', '%r0', '%l2')
        emit(f'st.global{c}.u32', '[%l1]', '%r0')
    emit('ld.global.v4.f32.L1::no_allocate', '{%r0, %r1, %r2, %r3}', '[%l1]')
    for op in ['add', 'min', 'max', 'inc', 'dec', 'and', 'or', 'xor', 'exch', 'cas']:
        for t, sp in product(['u16', 's16', 'b16', 'u32', 's32', 'b32', 'u64', 's64', 'b64', 'f32', 'f64', 'f16', 'f16x2', 'bf16', 'bf16x2', 'b128'], ['', '.global', '.shared']):
            for nf in ['', '.noftz']:
                if nf and t not in ('f16', 'f16x2', 'bf16', 'bf16x2', 'f32'):
                    continue
                a = [reg(t, 2)] + ([reg(t, 3)] if op == 'cas' else [])
                emit(f'atom{sp}.{op}{nf}.{t}', reg(t, 0), ADDR[sp], *a)
                emit(f'red{sp}.{op}{nf}.{t}', ADDR[sp], *a)
    for sem, sc, sp in product(['', '.relaxed', '.acquire', '.release', '.acq_rel', '.sc', '.weak'], SCOPE, ['', '.global', '.shared', '.shared::cta', '.shared::cluster', '.local']):
        emit(f'atom{sem}{sc}{sp}.add.u32', '%r0', ADDR[sp], '%r2')
        emit(f'red{sem}{sc}{sp}.add.u32', ADDR[sp], '%r2')
        emit(f'atom{sem}{sc}{sp}.cas.b32', '_', ADDR[sp], '%r2', '%r3')
    for op, t, v, sp in product(['add', 'min', 'max'], ['f32', 'f16', 'f16x2', 'bf16', 'bf16x2', 'u32', 'f64'], ['.v2', '.v4', '.v8'], ['.global', '.shared', '']):
        nf = '.noftz' if t not in ('f32', 'u32', 'f64') else ''
        emit(f'red{sp}.{op}{nf}{v}.{t}', ADDR[sp], vec(t, v))
        emit(f'red{sp}{v}.{t}.{op}', ADDR[sp], vec(t, v))
        emit(f'red{sp}.{op}{v}{nf}.{t}', ADDR[sp], vec(t, v))
        emit(f'atom{sp}.{op}{nf}{v}.{t}', vec(t, v, 10), ADDR[sp], vec(t, v))
        emit(f'atom{sp}.{op}{v}{nf}.{t}', vec(t, v, 10), ADDR[sp], vec(t, v))
    emit('atom.global.add.L2::cache_hint.u32', '%r0', '[%l1]', '%r2', '%l3')
    emit('red.global.add.L2::cache_hint.u32', '[%l1]', '%r2', '%l3')
    emit('atom.add.noftz.L2::cache_hint.f16x2', '%r0', '[%l1]', '%r2', '%l3')
    emit('red.relaxed.gpu.global.add.L2::cache_hint.v4.f32', '[%l1]', '{%r2, %r3, %r4, %r5}', '%l3')
    emit('red.relaxed.gpu.global.add.noftz.L2::cache_hint.v4.bf16x2', '[%l1]', '{%r2, %r3, %r4, %r5}', '%l3')
    emit('atom.global.v2.f32.add', '{%r4, %r5}', '[%l1]', '{%r2, %r3}')
    emit('atom.relaxed.gpu.global.v4.f32.add', '{%r4, %r5, %r6, %r7}', '[%l1]', '{%r0, %r1, %r2, %r3}')
    emit('atom.exch.b128', '%q0', '[%l1]', '%q2')
    emit('atom.acq_rel.gpu.global.cas.b128', '%q0', '[%l1]', '%q2', '%q3')
    for sem, sc in product(['', '.sc', '.acq_rel', '.acquire', '.release', '.relaxed'], SCOPE):
        emit(f'fence{sem}{sc}')
    for s in ['.cta', '.gl', '.sys', '.cluster', '.gpu', '']:
        emit(f'membar{s}')
    emit('fence.acquire.sync_restrict::shared::cluster.cluster')
    emit('fence.release.sync_restrict::shared::cta.cluster')
    for s, l in product(['', '.global', '.local', '.shared'], ['.L1', '.L2', '.L2::evict_last', '.L2::evict_normal', '']):
        emit(f'prefetch{s}{l}', '[%l1]')
        emit(f'applypriority{s}{l}', '[%l1]', '128')
        emit(f'discard{s}{l}', '[%l1]', '128')
        emit(f'prefetchu{s}{l}', '[%l1]')
    for p, q in product(['evict_last', 'evict_normal', 'evict_first', 'evict_unchanged'], ['', 'evict_unchanged', 'evict_first']):
        emit(f'createpolicy.fractional.L2::{p}{".L2::" + q if q else ""}.b64', '%l0', '1.0')
        emit(f'createpolicy.fractional.L2::{p}{".L2::" + q if q else ""}.b64', '%l0')
        emit(f'createpolicy.range.global.L2::{p}{".L2::" + q if q else ""}.b64', '%l0', '[%l1]', '%r2', '%r3')
        emit(f'createpolicy.range.L2::{p}{".L2::" + q if q else ""}.b64', '%l0', '[%l1]', '65536', '131072')
    emit('createpolicy.cvt.L2.b64', '%l0', '0x12F0000000000000')


def warp():
    for m in ['.up', '.down', '.bfly', '.idx']:
        for t in ['b32', 'u32', 'b64']:
            emit(f'shfl.sync{m}.{t}', f'{reg(t, 0)}|%p0', reg(t, 1), '%r2', '%r3', '%r4')
            emit(f'shfl.sync{m}.{t}', reg(t, 0), reg(t, 1), '3', '0x1f', '0xffffffff')
        emit(f'shfl{m}.b32', '%r0', '%r1', '%r2', '%r3')
    for m, t in product(['.all', '.any', '.uni', '.ballot'], ['pred', 'b32']):
        emit(f'vote.sync{m}.{t}', reg(t, 0), '%p1', '%r2')
        emit(f'vote.sync{m}.{t}', reg(t, 0), '!%p1', '-1')
        emit(f'vote{m}.{t}', reg(t, 0), '%p1')
    for m, t in product(['.any', '.all'], ['b32', 'b64', 'u32']):
        emit(f'match{m}.sync.{t}', '%r0', reg(t, 1), '%r2')
        emit(f'match{m}.sync.{t}', '%r0|%p0', reg(t, 1), '%r2')
    for o, t in product(['add', 'min', 'max', 'and', 'or', 'xor', 'inc'], ['u32', 's32', 'b32', 'f32', 'u64']):
        emit(f'redux.sync.{o}.{t}', reg(t, 0), reg(t, 1), '%r2')
    for q in ['.abs', '.NaN', '.abs.NaN']:
        emit(f'redux.sync.min{q}.f32', '%r0', '%r1', '%r2')
    emit('activemask.b32', '%r0')
    emit('elect.sync', '%r0|%p0', '%r1')
    emit('elect.sync', '_|%p0', '-1')
    emit('bar.warp.sync', '%r0')
    emit('bar.warp.sync', '0xffffffff')
    for b, al in product(['bar', 'bar.cta', 'barrier', 'barrier.cta'], ['', '.aligned']):
        emit(f'{b}.sync{al}', '0')
        emit(f'{b}.sync{al}', '%r0')
        emit(f'{b}.sync{al}', '%r0', '%r1')
        emit(f'{b}.sync{al}', '1', '64')
        emit(f'{b}.arrive{al}', '%r0', '%r1')
        emit(f'{b}.arrive{al}', '0')
        emit(f'{b}.red.popc{al}.u32', '%r0', '1', '%p0')
        emit(f'{b}.red.popc{al}.u32', '%r0', '1', '64', '!%p0')
        emit(f'{b}.red.and{al}.pred', '%p1', '%r1', '%r2', '%p0')
        emit(f'{b}.red.or{al}.pred', '%p1', '1', '!%p0')
        emit(f'{b}.red.xor{al}.pred', '%p1', '1', '%p0')
    for a in ['.arrive', '.wait']:
        for s, al in product(['', '.release', '.relaxed', '.acquire'], ['', '.aligned']):
            emit(f'barrier.cluster{a}{s}{al}')


def control():
    emit('bra', 'L')
    emit('bra.uni', 'L')
    emit('exit')
    emit('exit.uni')
    emit('ret')
    emit('ret.uni')
    emit('trap')
    emit('brkpt')
    emit('nanosleep.u32', '%r0')
    emit('nanosleep.u32', '100')
    emit('nanosleep.u64', '%l0')
    emit('pmevent', '1')
    emit('pmevent.mask', '0xff')
    emit('pmevent', '%r0')
    emit('brx.idx', '%r0', 'T')
    emit('brx.idx.uni', '%r0', 'T')
    emit('griddepcontrol.launch_dependents')
    emit('griddepcontrol.wait')
    emit('alloca.u64', '%l0', '%l1')
    emit('stacksave.u64', '%l0')
    emit('stacksave.u32', '%r0')
    emit('stackrestore.u64', '%l0')
    emit('tex.1d.v4.f32.s32', '{%r0, %r1, %r2, %r3}', '[%l0, {%r4}]')
    emit('nosuch.b32', '%r0', '%r1')
    emit('call.uni', 'ff')
    emit('call', 'ff')
    emit('call (%r0)', 'fr', '(%r1)')


HEAD = '''.version {version}
.target {target}
.address_size 64
.global .align 16 .b32 gv[4];
.const .align 16 .b32 cv[4];
.func ff() {{ ret; }}
.func (.reg .b32 %o) fr(.reg .b32 %i) {{ mov.b32 %o, %i; ret; }}
.visible .entry k(.param .align 16 .b8 kp[64])
{{
.reg .pred %p<20>;
.reg .b8 %b<8>;
.reg .b16 %h<20>;
.reg .b32 %r<20>;
.reg .b64 %l<20>;
{q}T: .branchtargets L;
'''
PTXAS = sys.argv[1]
OPEN = ['ld', 'ldu', 'st', 'atom', 'red', 'mov', 'call', 'tex', 'prefetch', 'fence', 'bra', 'istypep']


def legal(forms, target, version):
    """The forms that ptxas takes. It names the lines of those it refuses; after a syntax error it may have stopped, so ask again."""
    left = list(forms)
    q = '.reg .b128 %q<8>;\n' if tuple(map(int, version.split('.'))) >= (8, 3) else ''
    if not q:
        left = [f for f in left if '%q' not in f]
    head = HEAD.format(version=version, target=target, q=q)
    first = head.count('\n') + 1
    while left:
        with tempfile.TemporaryDirectory() as d:
            p = os.path.join(d, 'x.ptx')
            with open(p, 'w') as f:
                f.write(head + '\n'.join(left) + '\nL: ret;\n}\n')
            r = subprocess.run([PTXAS, '-arch=' + target, '-O0', '-o', os.path.join(d, 'x.o'), p], capture_output=True, text=True)
        bad = {int(n) - first for n in re.findall(r'line (\d+); (?:error|fatal)', r.stderr + r.stdout)}
        bad = {n for n in bad if 0 <= n < len(left)}
        if r.returncode == 0:
            return set(left)
        if not bad:
            if len(left) == 1:
                return set()
            h = len(left) // 2
            return legal(left[:h], target, version) | legal(left[h:], target, version)
        left = [x for i, x in enumerate(left) if i not in bad]
    return set()


VERSIONS = ['7.0', '7.1', '7.2', '7.3', '7.4', '7.5', '7.6', '7.7', '7.8', '8.0', '8.1', '8.2', '8.3', '8.4', '8.5', '8.6', '8.7', '8.8', '9.0']
LEAST = {'sm_80': '7.0', 'sm_89': '7.8', 'sm_90': '7.8', 'sm_90a': '8.0'}


def chunks(forms, n=400):
    return [forms[i:i + n] for i in range(0, len(forms), n)]


def ask(forms, target, version):
    r = set()
    for c in chunks(forms):
        r |= legal(c, target, version)
    return r


def main():
    for f in [arithmetic, bits, compare, moves, conversions, video, memory, warp, control]:
        f()
    forms = list(dict.fromkeys(out))
    # Per form, what it needs: (target, version) pairs of which one must be met.
    needs = {f: [] for f in forms}
    for t in LEAST:
        left = ask(forms, t, '9.0')
        for v in VERSIONS[VERSIONS.index(LEAST[t]):]:
            ok = ask([f for f in forms if f in left], t, v) if left else set()
            for f in ok:
                # Newer targets are worth a word only where an older version will do, beyond what the target itself needs.
                if not any(VERSIONS.index(w) <= max(VERSIONS.index(v), VERSIONS.index(LEAST[t])) for _, w in needs[f]):
                    needs[f].append((t, v))
            left -= ok
        print(t, 'without a version', len(left), file=sys.stderr)
    v = subprocess.run([PTXAS, '--version'], capture_output=True, text=True).stdout
    by = 'ptxas ' + re.search(r'V([\d.]+)', v).group(1)
    folder = sys.argv[2]
    word = lambda x: ','.join(f'{t}:{v}' for t, v in needs[x]) or 'never'
    with open(f'{folder}/tests/corpus/forms.txt', 'w') as f:
        f.write(f'# Written by forms.py with {by}: what a form needs (target:version, one of them), the form.\n')
        for k, x in enumerate(forms):
            long = x.startswith(('set.', 'setp.', 'cvt.'))
            if needs[x] or not long or k % 10 == 0:
                f.write(f'{word(x)} {x}\n')
    groups = {}
    for x in filter(lambda x: needs[x], forms):
        op = x.split()[0].rstrip(';')
        if op.split('.')[0] not in OPEN:
            groups.setdefault(word(x), set()).add(op)
    with open(f'{folder}/data/forms.txt', 'w') as f:
        f.write(f'# Opcodes that {by} takes, by what they need (target:version, one of them). Written by tests/corpus/forms.py.\n')
        for w in sorted(groups):
            f.write(f'{w} {" ".join(sorted(groups[w]))}\n')


main()
