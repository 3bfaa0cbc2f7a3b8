; The native half of the CPU runtime: the walker that runs a program, and the loop that workers sit in.
;
; rlx_run(state) executes records until the program ends (0) or its budget is spent (1: call again to go on).
; rlx_call(state, list) begins a run on the array objects in a Python list, inputs then outputs. It runs nothing and gives
; 2 where an input is not an array of NumPy's own as the table tells that word 12 of the state points to, or where word
; 13 is not 0. Word 11 tells how many objects there are; fields of objects are those of rlx.driver.array_object.
; rlx_run_method and rlx_call_method are both as Python's built-in functions (rlx.driver.builtin), bound to the array of
; the state; word 14 is the address of PyLong_FromSsize_t, which makes an object of what they give.
; rlx_worker(pool, w) serves worker w until the pool stops. Layouts are those of walker.py and pool.py.
;
; A parallel launch gives each thread a share of the grid, always the same one, so that what a thread brought into its
; caches it meets there again. A share is cut into chunks. Its thread claims them one by one, then those that are left
; of other shares: a thread that the system has put aside holds nobody up unless it is inside a chunk. A ticket is the
; launch's generation (upper half) and the chunks left to claim (lower half) in one word, so that a claim can only
; succeed while that launch is under way: the launcher does not return, and so does not describe another job, before
; every claimed chunk is done. A thread's ticket and its job are one cache line, all that a worker must fetch to begin.
; A worker spins briefly for a new generation, then parks on a futex of its own. The system wakes it where it lay down if
; all processors are busy for a moment; if the caller has come to run there meanwhile, the two would share it for
; milliseconds. The caller then lets the worker run anywhere else, and the worker takes this back when it begins.

declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare i64 @llvm.smax.i64(i64, i64)
@PAUSE_DECLARATION@

; Claim chunks of the share of %whose in launch %generation until none is left, and run them on %scratch; their number.
define private i64 @rlx_claim(ptr %whose, i64 %generation, ptr %scratch) nounwind {
entry:
  %fn.p = getelementptr i8, ptr %whose, i64 8
  %args.p = getelementptr i8, ptr %whose, i64 16
  %sizes.p = getelementptr i8, ptr %whose, i64 24
  %first.p = getelementptr i8, ptr %whose, i64 40
  %past.p = getelementptr i8, ptr %whose, i64 48
  %chunk.p = getelementptr i8, ptr %whose, i64 56
  br label %look

look:
  %ran = phi i64 [ 0, %entry ], [ %ran, %claim ], [ %ran.next, %work ]
  %ticket = load atomic i64, ptr %whose acquire, align 8
  %current = lshr i64 %ticket, 32
  %ours = icmp eq i64 %current, %generation
  %left = and i64 %ticket, 4294967295
  %some = icmp ne i64 %left, 0
  %claimable = and i1 %ours, %some
  br i1 %claimable, label %claim, label %leave

claim:
  %fewer = sub i64 %ticket, 1
  %swap = cmpxchg ptr %whose, i64 %ticket, i64 %fewer acq_rel acquire
  %claimed = extractvalue { i64, i1 } %swap, 1
  br i1 %claimed, label %work, label %look

work:
  %fn = load ptr, ptr %fn.p
  %args = load ptr, ptr %args.p
  %sizes = load ptr, ptr %sizes.p
  %first = load i64, ptr %first.p
  %past = load i64, ptr %past.p
  %chunk = load i64, ptr %chunk.p
  %behind = mul i64 %left, %chunk
  %whole = sub i64 %past, %behind
  %begin = call i64 @llvm.smax.i64(i64 %whole, i64 %first)
  %end = add i64 %whole, %chunk
  call void %fn(ptr %args, ptr %sizes, ptr %scratch, i64 %begin, i64 %end)
  %ran.next = add i64 %ran, 1
  br label %look

leave:
  ret i64 %ran
}

; Take part in launch %generation as thread %index: its own share, then what is left of the others'. Chunks that it ran
; and has not yet told of are returned; where %tell, none.
define private i64 @rlx_work(ptr %pool, i64 %generation, i64 %index, i1 %tell) nounwind noinline {
entry:
  %active.p = getelementptr i8, ptr %pool, i64 88
  %done.p = getelementptr i8, ptr %pool, i64 128
  %own.offset = mul i64 %index, 128
  %own.at = add i64 %own.offset, 256
  %own = getelementptr i8, ptr %pool, i64 %own.at
  %scratch.p = getelementptr i8, ptr %own, i64 32
  %scratch = load ptr, ptr %scratch.p
  br label %share

share:
  %whose = phi i64 [ %index, %entry ], [ %next, %further ]
  %tried = phi i64 [ 0, %entry ], [ %tried.next, %further ]
  %ran = phi i64 [ 0, %entry ], [ %ran.kept, %further ]
  %offset = mul i64 %whose, 128
  %at = add i64 %offset, 256
  %line = getelementptr i8, ptr %pool, i64 %at
  %more = call i64 @rlx_claim(ptr %line, i64 %generation, ptr %scratch)
  %ran.next = add i64 %ran, %more
  %any = icmp ne i64 %more, 0
  %telling = and i1 %any, %tell
  br i1 %telling, label %say, label %further

say:
  %before = atomicrmw add ptr %done.p, i64 %more release
  br label %further

further:
  %ran.kept = phi i64 [ %ran.next, %share ], [ 0, %say ]
  %active = load atomic i64, ptr %active.p monotonic, align 8
  %later = add i64 %whose, 1
  %around = icmp sge i64 %later, %active
  %next = select i1 %around, i64 0, i64 %later
  %tried.next = add i64 %tried, 1
  %all = icmp sge i64 %tried.next, %active
  br i1 %all, label %leave, label %share

leave:
  ret i64 %ran.kept
}

; Let thread %thread (0: the caller) run on a processor, or no longer; whether it may run where it was asked to.
define private i1 @rlx_allow(i32 %thread, i32 %processor, i1 %allowed) nounwind noinline {
entry:
  %mask = alloca [128 x i8], align 8
  %unknown = call i32 @sched_getaffinity(i32 %thread, i64 128, ptr %mask)
  %known = icmp eq i32 %unknown, 0
  br i1 %known, label %change, label %leave

change:
  %byte = lshr i32 %processor, 3
  %byte.p = getelementptr i8, ptr %mask, i32 %byte
  %bit = and i32 %processor, 7
  %wide = shl i32 1, %bit
  %flag = trunc i32 %wide to i8
  %others = xor i8 %flag, -1
  %old = load i8, ptr %byte.p
  %cleared = and i8 %old, %others
  %set = or i8 %old, %flag
  %new = select i1 %allowed, i8 %set, i8 %cleared
  store i8 %new, ptr %byte.p
  %refused = call i32 @sched_setaffinity(i32 %thread, i64 128, ptr %mask)
  %done = icmp eq i32 %refused, 0
  br label %leave

leave:
  %result = phi i1 [ false, %entry ], [ %done, %change ]
  ret i1 %result
}

; Before the sleeping worker of %line is woken: if it lay down on the caller's processor, keep it off there.
define private void @rlx_part(ptr %line) nounwind noinline {
entry:
  %thread.p = getelementptr i8, ptr %line, i64 68
  %off.p = getelementptr i8, ptr %line, i64 72
  %lay.p = getelementptr i8, ptr %line, i64 76
  %thread = load atomic i32, ptr %thread.p monotonic, align 4
  %off = load atomic i32, ptr %off.p monotonic, align 4
  %lay = load atomic i32, ptr %lay.p monotonic, align 4
  %movable = icmp ne i32 %thread, 0
  %free = icmp eq i32 %off, 0
  %willing = and i1 %movable, %free
  br i1 %willing, label %look, label %leave

look:
  %here = call i32 @sched_getcpu()
  %number = add i32 %here, 1
  %together = icmp eq i32 %number, %lay
  br i1 %together, label %part, label %leave

part:
  store atomic i32 %number, ptr %off.p monotonic, align 4
  %parted = call i1 @rlx_allow(i32 %thread, i32 %here, i1 false)
  br i1 %parted, label %leave, label %stay

stay:
  store atomic i32 0, ptr %off.p monotonic, align 4
  br label %leave

leave:
  ret void
}

define void @rlx_worker(ptr %pool, i64 %w) nounwind {
entry:
  %stop.p = getelementptr i8, ptr %pool, i64 8
  %index = add i64 %w, 1
  %offset = mul i64 %index, 128
  %at = add i64 %offset, 256
  %own = getelementptr i8, ptr %pool, i64 %at
  %generation.p = getelementptr i8, ptr %own, i64 4
  %asleep.p = getelementptr i8, ptr %own, i64 64
  %off.p = getelementptr i8, ptr %own, i64 72
  %lay.p = getelementptr i8, ptr %own, i64 76
  br label %listen

listen:
  %seen = phi i64 [ 0, %entry ], [ %new, %join ]
  br label %spin

spin:
  %spins = phi i64 [ 0, %listen ], [ %spins.next, %again ], [ 0, %woken ], [ 0, %back ]
  %ticket = load atomic i64, ptr %own acquire, align 8
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
  %here = call i32 @sched_getcpu()
  %number = add i32 %here, 1
  store atomic i32 %number, ptr %lay.p monotonic, align 4
  store atomic i32 1, ptr %asleep.p monotonic, align 4
  fence seq_cst
  %last = load atomic i64, ptr %own acquire, align 8
  %last.generation = lshr i64 %last, 32
  %quiet = icmp eq i64 %last.generation, %seen
  br i1 %quiet, label %sleep, label %woken

sleep:
  %seen32 = trunc i64 %seen to i32
  %slept = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %generation.p, i64 128, i32 %seen32, ptr null)
  br label %woken

woken:
  store atomic i32 0, ptr %asleep.p monotonic, align 4
  %off = load atomic i32, ptr %off.p monotonic, align 4
  %everywhere = icmp eq i32 %off, 0
  br i1 %everywhere, label %spin, label %back

back:
  %kept = sub i32 %off, 1
  %again.free = call i1 @rlx_allow(i32 0, i32 %kept, i1 true)
  store atomic i32 0, ptr %off.p monotonic, align 4
  br label %spin

check:
  %stop = load atomic i32, ptr %stop.p acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %leave, label %join

join:
  %told = call i64 @rlx_work(ptr %pool, i64 %new, i64 %index, i1 true)
  br label %listen

leave:
  ret void
}

; Run range(grid) in shares on the caller and the first active-1 workers, and return when every chunk is done.
define private void @rlx_parallel(ptr %pool, ptr %fn, ptr %args, ptr %sizes, ptr %scratch, i64 %stride, i64 %grid, i64 %active, i64 %chunk) nounwind noinline {
entry:
  %told.p = getelementptr i8, ptr %pool, i64 72
  %generation.p = getelementptr i8, ptr %pool, i64 80
  %active.p = getelementptr i8, ptr %pool, i64 88
  %done.p = getelementptr i8, ptr %pool, i64 128
  %mine = getelementptr i8, ptr %pool, i64 256
  store atomic i64 %active, ptr %active.p monotonic, align 8
  %generation.last = load i64, ptr %generation.p
  %generation.one = add i64 %generation.last, 1
  %generation = and i64 %generation.one, 4294967295
  store i64 %generation, ptr %generation.p
  %generation.high = shl i64 %generation, 32
  %rounding = sub i64 %chunk, 1
  br label %describe

describe:
  %w = phi i64 [ %active, %entry ], [ %index, %describe ]
  %past = phi i64 [ %grid, %entry ], [ %first, %describe ]
  %sum = phi i64 [ 0, %entry ], [ %chunks, %describe ]
  %index = sub i64 %w, 1
  %offset = mul i64 %index, 128
  %line = getelementptr i8, ptr %mine, i64 %offset
  %product = mul i64 %grid, %index
  %first = udiv i64 %product, %active
  %length = sub i64 %past, %first
  %padded = add i64 %length, %rounding
  %cut = udiv i64 %padded, %chunk
  %chunks = add i64 %sum, %cut
  %scratch.offset = mul i64 %stride, %index
  %scratch.own = getelementptr i8, ptr %scratch, i64 %scratch.offset
  %line.fn = getelementptr i8, ptr %line, i64 8
  %line.args = getelementptr i8, ptr %line, i64 16
  %line.sizes = getelementptr i8, ptr %line, i64 24
  %line.scratch = getelementptr i8, ptr %line, i64 32
  %line.first = getelementptr i8, ptr %line, i64 40
  %line.past = getelementptr i8, ptr %line, i64 48
  %line.chunk = getelementptr i8, ptr %line, i64 56
  store ptr %fn, ptr %line.fn
  store ptr %args, ptr %line.args
  store ptr %sizes, ptr %line.sizes
  store ptr %scratch.own, ptr %line.scratch
  store i64 %first, ptr %line.first
  store i64 %past, ptr %line.past
  store i64 %chunk, ptr %line.chunk
  %ticket = or i64 %generation.high, %cut
  store atomic i64 %ticket, ptr %line release, align 8
  %described = icmp eq i64 %index, 0
  br i1 %described, label %published, label %describe

published:
  fence seq_cst
  br label %look

look:
  %v = phi i64 [ 1, %published ], [ %v.next, %looked ]
  %all.awake = icmp sge i64 %v, %active
  br i1 %all.awake, label %work, label %ask

ask:
  %v.offset = mul i64 %v, 128
  %v.line = getelementptr i8, ptr %mine, i64 %v.offset
  %asleep.p = getelementptr i8, ptr %v.line, i64 64
  %asleep = load atomic i32, ptr %asleep.p monotonic, align 4
  %sleeping = icmp ne i32 %asleep, 0
  br i1 %sleeping, label %wake, label %looked

wake:
  call void @rlx_part(ptr %v.line)
  %v.generation.p = getelementptr i8, ptr %v.line, i64 4
  %woke = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %v.generation.p, i64 129, i64 1)
  br label %looked

looked:
  %v.next = add i64 %v, 1
  br label %look

work:
  %ran = call i64 @rlx_work(ptr %pool, i64 %generation, i64 0, i1 false)
  %told.last = load i64, ptr %told.p
  %others = sub i64 %chunks, %ran
  %told = add i64 %told.last, %others
  store i64 %told, ptr %told.p
  br label %join

join:
  %spins = phi i64 [ 0, %work ], [ %spins.next, %joining ], [ %spins.next, %yield ]
  %done = load atomic i64, ptr %done.p acquire, align 8
  %all = icmp eq i64 %done, %told
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

; Objects: references, type, data, rank, sizes, strides, base, dtype, flags; references, type, size, items.
%array = type { i64, ptr, ptr, i32, ptr, ptr, ptr, ptr, i32 }
%list = type { i64, ptr, i64, ptr }

; The table: how many inputs, the type of arrays; then for each input its dtype, its rank and its sizes.
define i32 @rlx_call(ptr %state, ptr %objects) nounwind {
entry:
  %bases.p = getelementptr i64, ptr %state, i64 5
  %count.p = getelementptr i64, ptr %state, i64 11
  %expected.p = getelementptr i64, ptr %state, i64 12
  %taken.p = getelementptr i64, ptr %state, i64 13
  %items.p = getelementptr %list, ptr %objects, i32 0, i32 3
  %bases = load ptr, ptr %bases.p
  %count = load i64, ptr %count.p
  %expected = load ptr, ptr %expected.p
  %items = load ptr, ptr %items.p
  %inputs = load i64, ptr %expected
  %ours.p = getelementptr i64, ptr %expected, i64 1
  %ours = load ptr, ptr %ours.p
  %rows = getelementptr i64, ptr %expected, i64 2
  %taken = load i64, ptr %taken.p
  %free = icmp eq i64 %taken, 0
  br i1 %free, label %next, label %unfit

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %size ]
  %row = phi ptr [ %rows, %entry ], [ %row.next, %size ]
  %checked = icmp sge i64 %i, %inputs
  br i1 %checked, label %take, label %object

object:
  %item.p = getelementptr ptr, ptr %items, i64 %i
  %item = load ptr, ptr %item.p
  %type.p = getelementptr %array, ptr %item, i32 0, i32 1
  %type = load ptr, ptr %type.p
  %is.array = icmp eq ptr %type, %ours
  br i1 %is.array, label %array, label %unfit

array:
  %flags.p = getelementptr %array, ptr %item, i32 0, i32 8
  %dtype.p = getelementptr %array, ptr %item, i32 0, i32 7
  %rank.p = getelementptr %array, ptr %item, i32 0, i32 3
  %sizes.p = getelementptr %array, ptr %item, i32 0, i32 4
  %flags = load i32, ptr %flags.p
  %dtype = load ptr, ptr %dtype.p
  %rank.short = load i32, ptr %rank.p
  %sizes = load ptr, ptr %sizes.p
  %row.rank.p = getelementptr i64, ptr %row, i64 1
  %row.dtype = load ptr, ptr %row
  %row.rank = load i64, ptr %row.rank.p
  %dense.flags = and i32 %flags, 257 ; C-contiguous, aligned
  %is.dense = icmp eq i32 %dense.flags, 257
  %same.dtype = icmp eq ptr %dtype, %row.dtype
  %rank = zext i32 %rank.short to i64
  %same.rank = icmp eq i64 %rank, %row.rank
  %good = and i1 %is.dense, %same.dtype
  %alike = and i1 %good, %same.rank
  %row.sizes = getelementptr i64, ptr %row, i64 2
  %row.next = getelementptr i64, ptr %row.sizes, i64 %rank
  %i.next = add i64 %i, 1
  br i1 %alike, label %size, label %unfit

size:
  %d = phi i64 [ 0, %array ], [ %d.next, %compare ]
  %compared = icmp sge i64 %d, %rank
  br i1 %compared, label %next, label %compare

compare:
  %size.p = getelementptr i64, ptr %sizes, i64 %d
  %row.size.p = getelementptr i64, ptr %row.sizes, i64 %d
  %size.here = load i64, ptr %size.p
  %row.size = load i64, ptr %row.size.p
  %same.size = icmp eq i64 %size.here, %row.size
  %d.next = add i64 %d, 1
  br i1 %same.size, label %size, label %unfit

take:
  %o = phi i64 [ 0, %next ], [ %o.next, %taking ]
  %all = icmp sge i64 %o, %count
  br i1 %all, label %run, label %taking

taking:
  %o.item.p = getelementptr ptr, ptr %items, i64 %o
  %o.item = load ptr, ptr %o.item.p
  %data.p = getelementptr %array, ptr %o.item, i32 0, i32 2
  %data = load i64, ptr %data.p
  %base = add i64 %o, 2
  %base.p = getelementptr i64, ptr %bases, i64 %base
  store i64 %data, ptr %base.p
  %o.next = add i64 %o, 1
  br label %take

run:
  %status = call i32 @rlx_run(ptr %state)
  ret i32 %status

unfit:
  ret i32 2
}

; An object of a status, by the function that word 14 of the state points to.
define private ptr @rlx_object(ptr %state, i32 %status) nounwind {
entry:
  %make.p = getelementptr i64, ptr %state, i64 14
  %make = load ptr, ptr %make.p
  %wide = sext i32 %status to i64
  %object = call ptr %make(i64 %wide)
  ret ptr %object
}

define ptr @rlx_run_method(ptr %self, ptr %nothing) nounwind {
entry:
  %state.p = getelementptr %array, ptr %self, i32 0, i32 2
  %state = load ptr, ptr %state.p
  %status = call i32 @rlx_run(ptr %state)
  %object = call ptr @rlx_object(ptr %state, i32 %status)
  ret ptr %object
}

define ptr @rlx_call_method(ptr %self, ptr %objects) nounwind {
entry:
  %state.p = getelementptr %array, ptr %self, i32 0, i32 2
  %state = load ptr, ptr %state.p
  %status = call i32 @rlx_call(ptr %state, ptr %objects)
  %object = call ptr @rlx_object(ptr %state, i32 %status)
  ret ptr %object
}
