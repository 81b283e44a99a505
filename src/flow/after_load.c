/*-------------------------------------------------------------------------
 *
 * after_load.c
 *	  What happens to a file once its rows are committed.
 *
 * A file is removed or moved after the commit of the transaction that loaded
 * it, and of every subtransaction around the load.  If the server dies in
 * between, the file stays; the next load finds it loaded already and only
 * does what was left to do.
 *
 * After the commit nothing may fail, so problems are warnings.  A file that
 * is no longer the one that was read (another inode, size or time) is left
 * alone, and a file in the place that it should move to is never overwritten.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "common/file_perm.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "flow/flow.h"

/* One thing to do at commit, in TopTransactionContext. */
typedef struct PendingAction
{
	struct PendingAction *next;
	int nest_level; /* of the subtransaction that it belongs to */
	EtlFileInfo file;
	char *destination; /* NULL: remove */
} PendingAction;

static PendingAction *pending_actions = NULL;
static bool callbacks_registered = false;

/* The place in the directory move_to that a file goes to. */
static char *
destination_of(const char *move_to, const char *path)
{
	return psprintf("%s/%s", move_to, strrchr(path, '/') + 1);
}

/* Is the file in this directory?  There, moving it would unlink its only name. */
static bool
is_directory_of(const char *path, const struct stat *directory)
{
	char *parent = pstrdup(path);
	struct stat st;

	get_parent_directory(parent);
	return stat(parent, &st) == 0 && st.st_dev == directory->st_dev &&
		   st.st_ino == directory->st_ino;
}

/*
 * Could the action be done?  Asked before the file is loaded, because after
 * the commit it is too late to refuse.
 */
void
etl_after_load_check(EtlAfterLoad action, const char *move_to,
					 const EtlFileInfo *file)
{
	struct stat st;

	if (action == ETL_AFTER_LOAD_KEEP)
		return;
	if (lstat(file->path, &st) == 0 && S_ISLNK(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot remove or move \"%s\": it is a symbolic link",
						file->path),
				 errhint(
					 "Name the file that it points to, or use after_load => 'keep'.")));
	if (action != ETL_AFTER_LOAD_MOVE)
		return;
	if (stat(move_to, &st) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not stat directory \"%s\": %m", move_to)));
	if (!S_ISDIR(st.st_mode))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not a directory", move_to)));
	if (is_directory_of(file->path, &st))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot move \"%s\" to the directory that it is in",
						file->path),
				 errhint(
					 "Choose another directory, which the source does not name.")));
	if ((uint64) st.st_dev != file->device)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot move \"%s\" to \"%s\"", file->path, move_to),
				 errdetail("They are on different file systems."),
				 errhint(
					 "Choose a directory on the file system of the loaded files.")));
	if (stat(destination_of(move_to, file->path), &st) == 0 &&
		(uint64) st.st_ino != file->inode)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_FILE),
				 errmsg("file \"%s\" already exists",
						destination_of(move_to, file->path)),
				 errhint(
					 "Rename one of the two files, or choose another directory.")));
}

/* Is the file at the path still the one that was loaded? */
static bool
is_unchanged(const EtlFileInfo *file)
{
	struct stat st;

	return lstat(file->path, &st) == 0 && S_ISREG(st.st_mode) &&
		   (uint64) st.st_dev == file->device &&
		   (uint64) st.st_ino == file->inode &&
		   (int64) st.st_size == file->size_bytes &&
		   etl_file_modified_at(&st) == file->modified_at;
}

/*
 * Rename, but never replace a file.  Where the system cannot do that in one
 * step, link and unlink; that takes more rights on the file, so it is not the
 * first choice.
 */
static int
rename_to_free_name(const char *path, const char *destination)
{
#ifdef RENAME_NOREPLACE
	if (renameat2(AT_FDCWD, path, AT_FDCWD, destination, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
#endif
	return link(path, destination) == 0 ? unlink(path) : -1;
}

/* Move a file; if it is linked to its destination already, finish that. */
static bool
move_file(const char *path, const char *destination, uint64 inode)
{
	struct stat st;

	if (rename_to_free_name(path, destination) == 0)
		return true;
	if (errno != EEXIST || stat(destination, &st) != 0 ||
		(uint64) st.st_ino != inode)
		return false;
	return unlink(path) == 0;
}

/* Do one action; the transaction is committed, so there is no error here. */
static void
do_action(const PendingAction *action)
{
	const char *path = action->file.path;

	if (!is_unchanged(&action->file))
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("file \"%s\" was left in place, because it changed after it was loaded",
						path)));
	else if (action->destination == NULL)
	{
		if (unlink(path) != 0)
			ereport(WARNING,
					(errcode_for_file_access(),
					 errmsg("could not remove loaded file \"%s\": %m", path),
					 errhint(
						 "The load is committed. Calling it again tries to remove the file again.")));
	}
	else if (!move_file(path, action->destination, action->file.inode))
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not move loaded file \"%s\" to \"%s\": %m", path,
						action->destination),
				 errhint(
					 "The load is committed. Calling it again tries to move the file again.")));
}

static void
at_transaction_event(XactEvent event, void *arg)
{
	PendingAction *actions = pending_actions;

	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			if (actions != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg(
							 "cannot PREPARE a transaction that removes or moves loaded files")));
			break;
		case XACT_EVENT_COMMIT:
			pending_actions = NULL;
			for (; actions != NULL; actions = actions->next)
				do_action(actions);
			break;
		case XACT_EVENT_ABORT:
			pending_actions = NULL;
			break;
		default:
			break;
	}
}

/* A subtransaction takes its actions along when it ends. */
static void
at_subtransaction_event(SubXactEvent event, SubTransactionId subid,
						SubTransactionId parent, void *arg)
{
	int level = GetCurrentTransactionNestLevel();
	PendingAction **link = &pending_actions;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (*link != NULL)
	{
		PendingAction *action = *link;

		if (action->nest_level >= level && event == SUBXACT_EVENT_ABORT_SUB)
		{
			*link = action->next;
			continue;
		}
		if (action->nest_level >= level)
			action->nest_level = level - 1;
		link = &action->next;
	}
}

/* Have the action done when the current transaction commits. */
void
etl_after_load_at_commit(EtlAfterLoad what, const char *move_to,
						 const EtlFileInfo *file)
{
	PendingAction **last = &pending_actions;
	MemoryContext old_context;
	PendingAction *action;

	if (what == ETL_AFTER_LOAD_KEEP)
		return;
	if (!callbacks_registered)
	{
		RegisterXactCallback(at_transaction_event, NULL);
		RegisterSubXactCallback(at_subtransaction_event, NULL);
		callbacks_registered = true;
	}

	old_context = MemoryContextSwitchTo(TopTransactionContext);
	action = palloc0(sizeof(PendingAction));
	action->nest_level = GetCurrentTransactionNestLevel();
	action->file = *file;
	action->file.path = pstrdup(file->path);
	if (what == ETL_AFTER_LOAD_MOVE)
		action->destination = destination_of(move_to, file->path);
	MemoryContextSwitchTo(old_context);

	/* In the order of the files. */
	while (*last != NULL)
		last = &(*last)->next;
	*last = action;
}
