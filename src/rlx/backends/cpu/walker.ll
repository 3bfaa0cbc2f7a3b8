; The native half of the CPU runtime: the walker that runs a program, and the loop that workers sit in.
;
; rlx_run(state) executes records until the program ends (0) or its budget is spent (1: call again to go on).
; rlx_run_arrays(state) is rlx_run on array objects, whose places the first arguments' base words hold. Word 11 of the
; state tells how many bytes into an object its data pointer is, word 12 how many objects there are.
; rlx_worker(pool, w) serves worker w until the pool stops. Layouts are those of walker.py and pool.py.
;
; A parallel launch cuts the grid into chunks, some for each thread. Who is awake claims the next one: a worker that the
; system has put aside holds nobody up unless it is inside a chunk. The ticket is the launch's generation (upper half)
; and the chunks left to claim (lower half) in one word, so that a claim can only succeed while that launch is under way:
; the launcher does not return, and so does not describe another job, before every claimed chunk is done. A worker
; spins briefly for a new generation, then parks on a futex.

declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare i64 @llvm.smin.i64(i64, i64)
@PAUSE_DECLARATION@

; Claim chunks of launch %generation until none is left, and run them on scratch number %index.
define private void @rlx_work(ptr %pool, i64 %generation, i64 %index) nounwind noinline {
entry:
  %ticket.p = getelementptr i8, ptr %pool, i64 128
  %done.p = getelementptr i8, ptr %pool, i64 192
  %fn.p = getelementptr i8, ptr %pool, i64 320
  %args.p = getelementptr i8, ptr %pool, i64 328
  %sizes.p = getelementptr i8, ptr %pool, i64 336
  %scratch.p = getelementptr i8, ptr %pool, i64 344
  %stride.p = getelementptr i8, ptr %pool, i64 352
  %grid.p = getelementptr i8, ptr %pool, i64 360
  %chunk.p = getelementptr i8, ptr %pool, i64 368
  %chunks.p = getelementptr i8, ptr %pool, i64 376
  br label %look

look:
  %ticket = load atomic i64, ptr %ticket.p acquire, align 8
  %current = lshr i64 %ticket, 32
  %ours = icmp eq i64 %current, %generation
  %left = and i64 %ticket, 4294967295
  %some = icmp ne i64 %left, 0
  %claimable = and i1 %ours, %some
  br i1 %claimable, label %claim, label %leave

claim:
  %fewer = sub i64 %ticket, 1
  %swap = cmpxchg ptr %ticket.p, i64 %ticket, i64 %fewer acq_rel acquire
  %claimed = extractvalue { i64, i1 } %swap, 1
  br i1 %claimed, label %work, label %look

work:
  %fn = load ptr, ptr %fn.p
  %args = load ptr, ptr %args.p
  %sizes = load ptr, ptr %sizes.p
  %scratch.base = load ptr, ptr %scratch.p
  %stride = load i64, ptr %stride.p
  %grid = load i64, ptr %grid.p
  %chunk = load i64, ptr %chunk.p
  %chunks = load i64, ptr %chunks.p
  %scratch.offset = mul i64 %stride, %index
  %scratch = getelementptr i8, ptr %scratch.base, i64 %scratch.offset
  %number = sub i64 %chunks, %left
  %begin = mul i64 %number, %chunk
  %past = add i64 %begin, %chunk
  %end = call i64 @llvm.smin.i64(i64 %past, i64 %grid)
  call void %fn(ptr %args, ptr %sizes, ptr %scratch, i64 %begin, i64 %end)
  %before = atomicrmw add ptr %done.p, i64 1 release
  br label %look

leave:
  ret void
}

define void @rlx_worker(ptr %pool, i64 %w) nounwind {
entry:
  %stop.p = getelementptr i8, ptr %pool, i64 8
  %ticket.p = getelementptr i8, ptr %pool, i64 128
  %generation.p = getelementptr i8, ptr %pool, i64 132
  %sleepers.p = getelementptr i8, ptr %pool, i64 256
  %active.p = getelementptr i8, ptr %pool, i64 384
  %index = add i64 %w, 1
  br label %listen

listen:
  %seen = phi i64 [ 0, %entry ], [ %new, %arrive ], [ %new, %join ]
  br label %spin

spin:
  %spins = phi i64 [ 0, %listen ], [ %spins.next, %again ], [ 0, %woken ]
  %ticket = load atomic i64, ptr %ticket.p acquire, align 8
  %new = lshr i64 %ticket, 32
  %same = icmp eq i64 %new, %seen
  br i1 %same, label %wait, label %check

wait:
  %spins.next = add i64 %spins, 1
  %tired = icmp sgt i64 %spins, 4000
  br i1 %tired, label %park, label %again

again:
  @PAUSE@
  br label %spin

park:
  %more = atomicrmw add ptr %sleepers.p, i32 1 seq_cst
  %last = load atomic i64, ptr %ticket.p seq_cst, align 8
  %last.generation = lshr i64 %last, 32
  %quiet = icmp eq i64 %last.generation, %seen
  br i1 %quiet, label %sleep, label %woken

sleep:
  %seen32 = trunc i64 %seen to i32
  %slept = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %generation.p, i64 128, i32 %seen32, ptr null)
  br label %woken

woken:
  %less = atomicrmw sub ptr %sleepers.p, i32 1 seq_cst
  br label %spin

check:
  %stop = load atomic i32, ptr %stop.p acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %leave, label %arrive

arrive:
  %active = load i64, ptr %active.p
  %wanted = icmp slt i64 %index, %active
  br i1 %wanted, label %join, label %listen

join:
  call void @rlx_work(ptr %pool, i64 %new, i64 %index)
  br label %listen

leave:
  ret void
}

; Run range(grid) in chunks on the caller and the first active-1 workers, and return when every chunk is done.
define private void @rlx_parallel(ptr %pool, ptr %fn, ptr %args, ptr %sizes, ptr %scratch, i64 %stride, i64 %grid, i64 %active, i64 %chunk) nounwind noinline {
entry:
  %ticket.p = getelementptr i8, ptr %pool, i64 128
  %generation.p = getelementptr i8, ptr %pool, i64 132
  %done.p = getelementptr i8, ptr %pool, i64 192
  %sleepers.p = getelementptr i8, ptr %pool, i64 256
  %fn.p = getelementptr i8, ptr %pool, i64 320
  %args.p = getelementptr i8, ptr %pool, i64 328
  %sizes.p = getelementptr i8, ptr %pool, i64 336
  %scratch.p = getelementptr i8, ptr %pool, i64 344
  %stride.p = getelementptr i8, ptr %pool, i64 352
  %grid.p = getelementptr i8, ptr %pool, i64 360
  %chunk.p = getelementptr i8, ptr %pool, i64 368
  %chunks.p = getelementptr i8, ptr %pool, i64 376
  %active.p = getelementptr i8, ptr %pool, i64 384
  %padded = add i64 %grid, %chunk
  %padded.less = sub i64 %padded, 1
  %chunks = udiv i64 %padded.less, %chunk
  store ptr %fn, ptr %fn.p
  store ptr %args, ptr %args.p
  store ptr %sizes, ptr %sizes.p
  store ptr %scratch, ptr %scratch.p
  store i64 %stride, ptr %stride.p
  store i64 %grid, ptr %grid.p
  store i64 %chunk, ptr %chunk.p
  store i64 %chunks, ptr %chunks.p
  store i64 %active, ptr %active.p
  store atomic i64 0, ptr %done.p monotonic, align 8
  %ticket = load atomic i64, ptr %ticket.p monotonic, align 8
  %generation = lshr i64 %ticket, 32
  %generation.one = add i64 %generation, 1
  %generation.next = and i64 %generation.one, 4294967295
  %generation.high = shl i64 %generation.next, 32
  %ticket.next = or i64 %generation.high, %chunks
  store atomic i64 %ticket.next, ptr %ticket.p seq_cst, align 8
  %sleepers = load atomic i32, ptr %sleepers.p seq_cst, align 4
  %asleep = icmp ne i32 %sleepers, 0
  br i1 %asleep, label %wake, label %work

wake:
  %helpers = sub i64 %active, 1
  %woke = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %generation.p, i64 129, i64 %helpers)
  br label %work

work:
  call void @rlx_work(ptr %pool, i64 %generation.next, i64 0)
  br label %join

join:
  %spins = phi i64 [ 0, %work ], [ %spins.next, %joining ], [ %spins.next, %yield ]
  %done = load atomic i64, ptr %done.p acquire, align 8
  %all = icmp eq i64 %done, %chunks
  br i1 %all, label %leave, label %busy

busy:
  %spins.next = add i64 %spins, 1
  %long = icmp sgt i64 %spins, 2000
  br i1 %long, label %yield, label %joining

joining:
  @PAUSE@
  br label %join

yield:
  %yielded = call i32 @sched_yield()
  br label %join

leave:
  ret void
}

define i32 @rlx_run(ptr %state) nounwind {
entry:
  %records.p = getelementptr i64, ptr %state, i64 1
  %relocs.p = getelementptr i64, ptr %state, i64 2
  %nrelocs.p = getelementptr i64, ptr %state, i64 3
  %table.p = getelementptr i64, ptr %state, i64 4
  %bases.p = getelementptr i64, ptr %state, i64 5
  %pool.p = getelementptr i64, ptr %state, i64 6
  %budget.p = getelementptr i64, ptr %state, i64 7
  %scratch.p = getelementptr i64, ptr %state, i64 8
  %stride.p = getelementptr i64, ptr %state, i64 9
  %sizes.p = getelementptr i64, ptr %state, i64 10
  %pc.start = load i64, ptr %state
  %records = load ptr, ptr %records.p
  %relocs = load ptr, ptr %relocs.p
  %nrelocs = load i64, ptr %nrelocs.p
  %table = load ptr, ptr %table.p
  %bases = load ptr, ptr %bases.p
  %pool = load ptr, ptr %pool.p
  %budget = load i64, ptr %budget.p
  %scratch = load ptr, ptr %scratch.p
  %stride = load i64, ptr %stride.p
  %sizes = load ptr, ptr %sizes.p
  %owner.p = getelementptr i8, ptr %pool, i64 64
  %claim = cmpxchg ptr %owner.p, i32 0, i32 1 acquire monotonic
  %claimed = extractvalue { i32, i1 } %claim, 1
  %workers = load i64, ptr %pool
  %all = add i64 %workers, 1
  %threads = select i1 %claimed, i64 %all, i64 1
  br label %patch

patch:
  %r = phi i64 [ 0, %entry ], [ %r.next, %patching ]
  %patched = icmp sge i64 %r, %nrelocs
  br i1 %patched, label %start, label %patching

patching:
  %r.word = mul i64 %r, 3
  %reloc = getelementptr i64, ptr %relocs, i64 %r.word
  %reloc.base = getelementptr i64, ptr %reloc, i64 1
  %reloc.offset = getelementptr i64, ptr %reloc, i64 2
  %slot = load i64, ptr %reloc
  %base.index = load i64, ptr %reloc.base
  %offset = load i64, ptr %reloc.offset
  %base.p = getelementptr i64, ptr %bases, i64 %base.index
  %base = load i64, ptr %base.p
  %address = add i64 %base, %offset
  %slot.p = getelementptr i64, ptr %table, i64 %slot
  store i64 %address, ptr %slot.p
  %r.next = add i64 %r, 1
  br label %patch

start:
  br label %next

next:
  %pc = phi i64 [ %pc.start, %start ], [ %pc.launch, %launched ], [ %pc.copy, %copy ], [ %pc.branch, %branch ], [ %pc.jump, %jump ]
  %left = phi i64 [ %budget, %start ], [ %left.launch, %launched ], [ %left.copy, %copy ], [ %left.control, %branch ], [ %left.control, %jump ]
  %exhausted = icmp slt i64 %left, 0
  br i1 %exhausted, label %pause, label %dispatch

dispatch:
  %word = mul i64 %pc, 8
  %record = getelementptr i64, ptr %records, i64 %word
  %f.p = getelementptr i64, ptr %record, i64 1
  %slots.p = getelementptr i64, ptr %record, i64 2
  %grid.p = getelementptr i64, ptr %record, i64 3
  %limit.p = getelementptr i64, ptr %record, i64 4
  %cost.p = getelementptr i64, ptr %record, i64 5
  %target.p = getelementptr i64, ptr %record, i64 6
  %chunk.p = getelementptr i64, ptr %record, i64 7
  %opcode = load i64, ptr %record
  %slots.index = load i64, ptr %slots.p
  %args = getelementptr i64, ptr %table, i64 %slots.index
  %cost = load i64, ptr %cost.p
  %target = load i64, ptr %target.p
  %grid = load i64, ptr %grid.p
  %pc.next = add i64 %pc, 1
  %left.control = sub i64 %left, 20
  switch i64 %opcode, label %end [ i64 1, label %launch
                                   i64 2, label %copy
                                   i64 3, label %branch
                                   i64 4, label %jump ]

launch:
  %fn = load ptr, ptr %f.p
  %limit = load i64, ptr %limit.p
  %chunk = load i64, ptr %chunk.p
  %fewer = icmp slt i64 %limit, %threads
  %active = select i1 %fewer, i64 %limit, i64 %threads
  %left.launch = sub i64 %left, %cost
  %alone = icmp sle i64 %active, 1
  br i1 %alone, label %serial, label %parallel

serial:
  call void %fn(ptr %args, ptr %sizes, ptr %scratch, i64 0, i64 %grid)
  br label %launched

parallel:
  call void @rlx_parallel(ptr %pool, ptr %fn, ptr %args, ptr %sizes, ptr %scratch, i64 %stride, i64 %grid, i64 %active, i64 %chunk)
  br label %launched

launched:
  %pc.launch = add i64 %pc, 1
  br label %next

copy:
  %from.p = getelementptr i64, ptr %args, i64 1
  %to = load ptr, ptr %args
  %from = load ptr, ptr %from.p
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %grid, i1 false)
  %left.copy = sub i64 %left, %cost
  %pc.copy = add i64 %pc, 1
  br label %next

branch:
  %predicate.p = load ptr, ptr %args
  %predicate = load i8, ptr %predicate.p
  %holds = icmp ne i8 %predicate, 0
  %pc.branch = select i1 %holds, i64 %pc.next, i64 %target
  br label %next

jump:
  %pc.jump = add i64 %target, 0
  br label %next

pause:
  store i64 %pc, ptr %state
  br label %release

end:
  store i64 0, ptr %state
  br label %release

release:
  %status = phi i32 [ 1, %pause ], [ 0, %end ]
  br i1 %claimed, label %unlock, label %leave

unlock:
  store atomic i32 0, ptr %owner.p release, align 4
  br label %leave

leave:
  ret i32 %status
}

define i32 @rlx_run_arrays(ptr %state) nounwind {
entry:
  %bases.p = getelementptr i64, ptr %state, i64 5
  %bases = load ptr, ptr %bases.p
  %first = getelementptr i64, ptr %bases, i64 2
  %at.p = getelementptr i64, ptr %state, i64 11
  %at = load i64, ptr %at.p
  %n.p = getelementptr i64, ptr %state, i64 12
  %n = load i64, ptr %n.p
  br label %next

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %read ]
  %all = icmp sge i64 %i, %n
  br i1 %all, label %run, label %read

read:
  %base.p = getelementptr i64, ptr %first, i64 %i
  %object = load ptr, ptr %base.p
  %place = getelementptr i8, ptr %object, i64 %at
  %address = load i64, ptr %place
  store i64 %address, ptr %base.p
  %i.next = add i64 %i, 1
  br label %next

run:
  %status = call i32 @rlx_run(ptr %state)
  ret i32 %status
}
