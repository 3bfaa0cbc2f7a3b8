; The native half of the CPU runtime: the walker that runs a program, and the loop that workers sit in.
;
; rlx_run(state) executes records until the program ends (0) or its budget is spent (1: call again to go on).
; rlx_worker(pool, w) serves worker w until the pool stops. Layouts are those of records.py and pool.py.
;
; A parallel launch cuts the grid into one contiguous range a thread. Each worker has a mailbox of its own, so that a
; worker with no part in a launch reads nothing of it. A worker spins briefly for mail, then parks on a futex.

declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
@PAUSE_DECLARATION@

define void @rlx_worker(ptr %pool, i64 %w) nounwind {
entry:
  %box.shift = mul i64 %w, 128
  %box.offset = add i64 %box.shift, 256
  %box = getelementptr i8, ptr %pool, i64 %box.offset
  %sleeping = getelementptr i8, ptr %box, i64 4
  %begin.p = getelementptr i8, ptr %box, i64 8
  %end.p = getelementptr i8, ptr %box, i64 16
  %stop.p = getelementptr i8, ptr %pool, i64 8
  %pending.p = getelementptr i8, ptr %pool, i64 128
  %fn.p = getelementptr i8, ptr %pool, i64 192
  %args.p = getelementptr i8, ptr %pool, i64 200
  %sizes.p = getelementptr i8, ptr %pool, i64 208
  %scratch.p = getelementptr i8, ptr %pool, i64 216
  %stride.p = getelementptr i8, ptr %pool, i64 224
  %index = add i64 %w, 1
  br label %listen

listen:
  %seen = phi i32 [ 0, %entry ], [ %mail, %work ]
  br label %spin

spin:
  %spins = phi i64 [ 0, %listen ], [ %spins.next, %again ], [ 0, %woken ]
  %mail = load atomic i32, ptr %box acquire, align 4
  %new = icmp ne i32 %mail, %seen
  br i1 %new, label %read, label %wait

wait:
  %spins.next = add i64 %spins, 1
  %tired = icmp sgt i64 %spins, 4000
  br i1 %tired, label %park, label %again

again:
  @PAUSE@
  br label %spin

park:
  store atomic i32 1, ptr %sleeping seq_cst, align 4
  %last = load atomic i32, ptr %box seq_cst, align 4
  %empty = icmp eq i32 %last, %seen
  br i1 %empty, label %sleep, label %woken

sleep:
  %slept = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %box, i64 128, i32 %seen, ptr null)
  br label %woken

woken:
  store atomic i32 0, ptr %sleeping seq_cst, align 4
  br label %spin

read:
  %stop = load atomic i32, ptr %stop.p acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %leave, label %work

work:
  %begin = load i64, ptr %begin.p
  %end = load i64, ptr %end.p
  %fn = load ptr, ptr %fn.p
  %args = load ptr, ptr %args.p
  %sizes = load ptr, ptr %sizes.p
  %scratch.base = load ptr, ptr %scratch.p
  %stride = load i64, ptr %stride.p
  %scratch.offset = mul i64 %stride, %index
  %scratch = getelementptr i8, ptr %scratch.base, i64 %scratch.offset
  call void %fn(ptr %args, ptr %sizes, ptr %scratch, i64 %begin, i64 %end)
  %before = atomicrmw sub ptr %pending.p, i32 1 release
  br label %listen

leave:
  ret void
}

; Cut range(grid) over the caller and the first active-1 workers, and return when all parts are done.
define private void @rlx_parallel(ptr %pool, ptr %fn, ptr %args, ptr %sizes, ptr %scratch, i64 %stride, i64 %grid, i64 %active) nounwind noinline {
entry:
  %pending.p = getelementptr i8, ptr %pool, i64 128
  %fn.p = getelementptr i8, ptr %pool, i64 192
  %args.p = getelementptr i8, ptr %pool, i64 200
  %sizes.p = getelementptr i8, ptr %pool, i64 208
  %scratch.p = getelementptr i8, ptr %pool, i64 216
  %stride.p = getelementptr i8, ptr %pool, i64 224
  store ptr %fn, ptr %fn.p
  store ptr %args, ptr %args.p
  store ptr %sizes, ptr %sizes.p
  store ptr %scratch, ptr %scratch.p
  store i64 %stride, ptr %stride.p
  %helpers = sub i64 %active, 1
  %helpers32 = trunc i64 %helpers to i32
  store atomic i32 %helpers32, ptr %pending.p release, align 4
  br label %post

post:
  %w = phi i64 [ 0, %entry ], [ %w.next, %posted ]
  %box.shift = mul i64 %w, 128
  %box.offset = add i64 %box.shift, 256
  %box = getelementptr i8, ptr %pool, i64 %box.offset
  %sleeping = getelementptr i8, ptr %box, i64 4
  %begin.p = getelementptr i8, ptr %box, i64 8
  %end.p = getelementptr i8, ptr %box, i64 16
  %w.next = add i64 %w, 1
  %w.after = add i64 %w, 2
  %low = mul i64 %grid, %w.next
  %high = mul i64 %grid, %w.after
  %begin = udiv i64 %low, %active
  %end = udiv i64 %high, %active
  store i64 %begin, ptr %begin.p
  store i64 %end, ptr %end.p
  %mail = load i32, ptr %box
  %mail.next = add i32 %mail, 1
  store atomic i32 %mail.next, ptr %box seq_cst, align 4
  %asleep = load atomic i32, ptr %sleeping seq_cst, align 4
  %must.wake = icmp ne i32 %asleep, 0
  br i1 %must.wake, label %wake, label %posted

wake:
  %woke = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %box, i64 129, i32 1)
  br label %posted

posted:
  %more = icmp slt i64 %w.next, %helpers
  br i1 %more, label %post, label %mine

mine:
  %own = udiv i64 %grid, %active
  call void %fn(ptr %args, ptr %sizes, ptr %scratch, i64 0, i64 %own)
  br label %join

join:
  %spins = phi i64 [ 0, %mine ], [ %spins.next, %joining ], [ %spins.next, %yield ]
  %left = load atomic i32, ptr %pending.p acquire, align 4
  %done = icmp eq i32 %left, 0
  br i1 %done, label %leave, label %busy

busy:
  %spins.next = add i64 %spins, 1
  %long = icmp sgt i64 %spins, 20000
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
  %fewer = icmp slt i64 %limit, %threads
  %active = select i1 %fewer, i64 %limit, i64 %threads
  %left.launch = sub i64 %left, %cost
  %alone = icmp sle i64 %active, 1
  br i1 %alone, label %serial, label %parallel

serial:
  call void %fn(ptr %args, ptr %sizes, ptr %scratch, i64 0, i64 %grid)
  br label %launched

parallel:
  call void @rlx_parallel(ptr %pool, ptr %fn, ptr %args, ptr %sizes, ptr %scratch, i64 %stride, i64 %grid, i64 %active)
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
