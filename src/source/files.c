/*-------------------------------------------------------------------------
 *
 * files.c
 *	  Which files a source names: one absolute path, or a glob.
 *
 * The order of the result is that of the bytes of the names, whatever the
 * locale, so that a run over the same files is the same run everywhere.
 * A name that exists literally is that file, even if it holds characters
 * that mean something in a glob.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <glob.h>
#include <sys/stat.h>

#include "source/source.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"

/* What could not be read first; glob(3) has no place for it. */
static int trouble_errno;
static char trouble_path[MAXPGPATH];

/* Files in the byte order of their paths. */
static int
compare_files(const ListCell *a, const ListCell *b)
{
	return strcmp(((const EtlFileInfo *) lfirst(a))->path,
				  ((const EtlFileInfo *) lfirst(b))->path);
}

/* Called by glob(3) for a directory that it cannot read: go on. */
static int
note_trouble(const char *path, int error)
{
	if (trouble_errno == 0)
	{
		trouble_errno = error;
		strlcpy(trouble_path, path, sizeof(trouble_path));
	}
	return 0;
}

/* The file, if it is a regular one, added to the list. */
static List *
add_regular(List *files, const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0)
	{
		if (S_ISREG(st.st_mode))
		{
			EtlFileInfo *info = palloc(sizeof(EtlFileInfo));

			etl_file_info_set(info, pstrdup(path), &st);
			files = lappend(files, info);
		}
	}
	else if (errno != ENOENT)
		(void) note_trouble(path, errno);
	return files;
}

/* The regular files among what glob(3) found. */
static List *
regular_files(const glob_t *found)
{
	List *files = NIL;
	size_t i;

	for (i = 0; i < found->gl_pathc; i++)
	{
		CHECK_FOR_INTERRUPTS();
		files = add_regular(files, found->gl_pathv[i]);
	}
	return files;
}

/* Run glob(3); whatever happens its memory is freed. */
static List *
expand_glob(const char *pattern)
{
	glob_t found;
	List *volatile files = NIL;
	int rc;

	memset(&found, 0, sizeof(found));
	trouble_errno = 0;
	rc = glob(pattern, GLOB_NOSORT, note_trouble, &found);
	PG_TRY();
	{
		if (rc == GLOB_NOSPACE)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		if (rc != 0 && rc != GLOB_NOMATCH)
			ereport(ERROR, (errcode_for_file_access(),
							errmsg("could not expand \"%s\": %m", pattern)));
		if (rc == 0)
			files = regular_files(&found);
	}
	PG_FINALLY();
	{
		globfree(&found);
	}
	PG_END_TRY();
	list_sort(files, compare_files);
	return files;
}

/* Is it a name, not a pattern? */
static bool
is_plain(const char *source)
{
	struct stat st;

	return strpbrk(source, "*?[") == NULL || stat(source, &st) == 0;
}

/*
 * Throw if the path is no text in the server's encoding: it could neither be
 * kept in loaded_file nor shown.
 */
static void
check_path_encoding(const char *path)
{
	StringInfoData shown;

	if (pg_verifymbstr(path, (int) strlen(path), true))
		return;
	initStringInfo(&shown);
	for (const char *s = path; *s != '\0'; s++)
	{
		if (IS_HIGHBIT_SET(*s))
			appendStringInfo(&shown, "\\x%02x", (unsigned char) *s);
		else
			appendStringInfoChar(&shown, *s);
	}
	ereport(ERROR, (errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
					errmsg("file name \"%s\" is not valid in encoding \"%s\"",
						   shown.data, GetDatabaseEncodingName()),
					errhint("Rename the file.")));
}

/*
 * The files that source names, as a list of palloc'd absolute paths in byte
 * order.  A plain path is given back unseen (etl_file_stat() says what is
 * wrong with it); a glob that matches no regular file is an error.
 */
List *
etl_files_expand(const char *source)
{
	List *paths = NIL;
	List *files;
	ListCell *lc;

	if (!is_absolute_path(source))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not an absolute path", source),
				 errhint(
					 "Give the full path of a file on the database server, or a pattern such as \"/data/*.csv\".")));
	if (is_plain(source))
		return list_make1(pstrdup(source));
	files = expand_glob(source);
	if (files == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("no file matches \"%s\"", source),
				 errhint(
					 "The pattern is looked up on the database server, as the operating system user that runs it.")));
	foreach(lc, files)
	{
		const EtlFileInfo *info = lfirst(lc);

		check_path_encoding(info->path);
		paths = lappend(paths, unconstify(char *, info->path));
	}
	list_free_deep(files);
	return paths;
}

/*
 * The regular files that source names now, possibly none, as a list of
 * EtlFileInfo in the byte order of their paths.  A path need not be valid in
 * the server's encoding.
 *
 * What cannot be read is passed over; then *error says why, and *error_path
 * what, of the first such thing.  Otherwise *error is 0.
 */
List *
etl_files_look(const char *source, int *error, char **error_path)
{
	List *files = NIL;

	trouble_errno = 0;
	if (!is_plain(source))
		files = expand_glob(source);
	else
	{
		char directory[MAXPGPATH];
		struct stat st;

		/* That the file is not there is no trouble, but its directory is. */
		strlcpy(directory, source, sizeof(directory));
		get_parent_directory(directory);
		files = add_regular(NIL, source);
		if (files == NIL && stat(directory, &st) != 0)
			(void) note_trouble(directory, errno);
	}
	*error = trouble_errno;
	*error_path = trouble_errno == 0 ? NULL : pstrdup(trouble_path);
	return files;
}
